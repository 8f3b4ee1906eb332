// SPDX-License-Identifier: Apache-2.0
// Colours and type of the report's page, for light and dark. The classes are those of chart.cpp and
// report.cpp.
#pragma once

namespace halftone {

inline constexpr const char* kReportStyle = R"css(
:root {
  --page: #f6f6f4; --surface: #fdfdfc; --ink: #16161a; --soft: #55554f; --faint: #85847d;
  --grid: #e6e5df; --base: #c4c3ba; --bad: #d63b3a;
  --c1: #2a78d6; --c2: #1a9a6c; --c3: #e3a008; --c4: #6a55c9; --c5: #d9590f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121211; --surface: #1b1b19; --ink: #f3f2ee; --soft: #bfbeb5; --faint: #8b8a82;
    --grid: #2d2d2a; --base: #4a4a45; --bad: #f06a66;
    --c1: #4a94ea; --c2: #22ad7b; --c3: #d1970f; --c4: #9488ea; --c5: #ec7a35;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1124px; margin: 0 auto; padding: 40px 20px 72px; }
h1, h2, h3, p, dl, dd, ul, figure, pre { margin: 0; }
.kind { color: var(--faint); font-size: 13px; letter-spacing: .06em; text-transform: uppercase; }
h1 { font-size: 30px; line-height: 1.25; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere; }
header p:last-child { color: var(--soft); }
h2 { font-size: 19px; font-weight: 620; margin-bottom: 8px; }
section { margin-top: 40px; }
section > p { color: var(--soft); margin-bottom: 12px; }
.tiles { display: flex; flex-wrap: wrap; gap: 1px;
  margin: 26px 0 22px; background: var(--grid); border: 1px solid var(--grid); border-radius: 8px;
  overflow: hidden; }
.tiles div { flex: 1 1 auto; background: var(--surface); padding: 12px 16px 13px; }
.tiles dt { color: var(--soft); font-size: 13px; }
.tiles dd { font-size: 22px; font-weight: 600; line-height: 1.3; white-space: nowrap; }
.tiles small { display: block; color: var(--faint); font-size: 12.5px; font-weight: 400; }
.to { color: var(--faint); font-weight: 400; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 3px 20px; font-size: 14px; }
.facts dt { color: var(--soft); }
.facts dd { overflow-wrap: anywhere; }
.note { margin-top: 18px; padding: 9px 14px; border-left: 3px solid var(--c3);
  background: var(--surface); color: var(--soft); font-size: 14px; }
.charts { display: grid; grid-template-columns: 1fr 1fr; gap: 18px; margin-top: 30px; }
figure { background: var(--surface); border: 1px solid var(--grid); border-radius: 8px;
  padding: 14px 16px 10px; min-width: 0; }
figure.wide { grid-column: 1 / -1; }
h2 + .charts { margin-top: 12px; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 2px 20px;
  align-items: baseline; margin-bottom: 6px; }
h3 { font-size: 15.5px; font-weight: 620; overflow-wrap: anywhere; }
h3 small { color: var(--faint); font-size: 13px; font-weight: 400; margin-left: 6px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 0; list-style: none;
  color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.key { display: inline-block; width: 16px; height: 0; border-top: 2.5px solid var(--c);
  margin-right: 6px; vertical-align: middle; }
.key.pale { opacity: .45; }
.key.box { width: 11px; height: 11px; border: 0; border-radius: 2px; background: var(--c); }
.key.round { width: 9px; height: 9px; border: 0; border-radius: 50%; background: var(--c); }
.key.tall { width: 2px; height: 11px; border: 0; background: var(--c); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 12px; fill: var(--faint); }
.ytick { text-anchor: end; }
.xtick { text-anchor: middle; }
.xname { text-anchor: end; }
svg .value { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--grid); }
.base { stroke: var(--base); }
.c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); } .c4 { --c: var(--c4); }
.c5 { --c: var(--c5); } .ink { --c: var(--ink); } .bad { --c: var(--bad); }
.curve { fill: none; stroke: var(--c); stroke-linejoin: round; stroke-linecap: round; }
.strong { stroke-width: 2; }
.light { stroke-width: 1; opacity: .45; }
.thin { stroke-width: 1; opacity: .7; }
.dot { fill: var(--c); stroke: var(--surface); stroke-width: 2; }
.end { fill: var(--c); }
.area { fill: var(--c); opacity: .78; stroke: var(--surface); stroke-width: 1; }
.mark { stroke: var(--bad); stroke-width: 1.5; }
.heat { fill: var(--c); }
.heat.h0 { fill-opacity: .1; } .heat.h1 { fill-opacity: .2; } .heat.h2 { fill-opacity: .31; }
.heat.h3 { fill-opacity: .43; } .heat.h4 { fill-opacity: .56; } .heat.h5 { fill-opacity: .7; }
.heat.h6 { fill-opacity: .85; } .heat.h7 { fill-opacity: 1; }
.shades { color: var(--soft); font-size: 13px; white-space: nowrap; }
.shade { display: inline-block; width: 11px; height: 11px; background: var(--c);
  vertical-align: -1px; }
.shade.h0 { opacity: .1; } .shade.h1 { opacity: .2; } .shade.h2 { opacity: .31; }
.shade.h3 { opacity: .43; } .shade.h4 { opacity: .56; } .shade.h5 { opacity: .7; }
.shade.h6 { opacity: .85; }
.charts + .charts, section > p + .charts { margin-top: 12px; }
svg .rowname { text-anchor: end; font-size: 10.5px; fill: var(--soft); }
svg .rowvalue { font-size: 10.5px; fill: var(--faint); }
.tables { display: grid; grid-template-columns: 3fr 2fr; gap: 18px; align-items: start; }
table { border-collapse: collapse; width: 100%; font-size: 14px; background: var(--surface);
  border: 1px solid var(--grid); }
th { text-align: left; color: var(--soft); font-weight: 500; }
th, td { padding: 5px 12px; border-bottom: 1px solid var(--grid); vertical-align: top; }
td { overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; width: 1%; }
.between { color: var(--faint); }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--surface); border: 1px solid var(--grid); border-radius: 8px;
  padding: 14px 16px; overflow-x: auto; }
@media (max-width: 760px) {
  .charts, .tables { grid-template-columns: 1fr; }
  .wide svg text { font-size: 21px; }
}
@media print { body { background: none; } figure, table { break-inside: avoid; } }
)css";

}  // namespace halftone
