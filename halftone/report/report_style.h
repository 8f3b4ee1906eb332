// SPDX-License-Identifier: Apache-2.0
// What the report's page adds to the style of all pages (core/page_style_impl.h). The classes are
// those of chart.cpp and report.cpp.
#pragma once

namespace halftone {

inline constexpr const char* kReportStyle = R"css(
.to { color: var(--faint); font-weight: 400; }
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
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
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
