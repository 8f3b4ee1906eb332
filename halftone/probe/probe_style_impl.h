// SPDX-License-Identifier: Apache-2.0
// Colours and type of probe.html, for light and dark: those of a run's report.
#pragma once

namespace halftone {

inline constexpr const char* kProbeStyle = R"css(
:root {
  --page: #f6f6f4; --surface: #fdfdfc; --ink: #16161a; --soft: #55554f; --faint: #85847d;
  --grid: #e6e5df; --bad: #d63b3a; --good: #1a9a6c;
  --c1: #2a78d6; --c2: #1a9a6c; --c3: #e3a008; --c4: #6a55c9; --c5: #d9590f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121211; --surface: #1b1b19; --ink: #f3f2ee; --soft: #bfbeb5; --faint: #8b8a82;
    --grid: #2d2d2a; --bad: #f06a66; --good: #22ad7b;
    --c1: #4a94ea; --c2: #22ad7b; --c3: #d1970f; --c4: #9488ea; --c5: #ec7a35;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1124px; margin: 0 auto; padding: 40px 20px 72px; }
h1, h2, p, dl, dd, table { margin: 0; }
.kind { color: var(--faint); font-size: 13px; letter-spacing: .06em; text-transform: uppercase; }
h1 { font-size: 28px; line-height: 1.25; font-weight: 650; letter-spacing: -.01em;
  overflow-wrap: anywhere; }
h1.bad::before, h1.good::before { content: ""; display: inline-block; width: 13px; height: 13px;
  border-radius: 50%; margin-right: 12px; background: var(--good); }
h1.bad::before { background: var(--bad); }
header .program { color: var(--soft); font-size: 14px; overflow-wrap: anywhere; margin-top: 4px; }
h2 { font-size: 19px; font-weight: 620; margin-bottom: 4px; }
section { margin-top: 38px; }
section > p { color: var(--soft); margin-bottom: 12px; max-width: 78ch; }
code, .op { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .93em; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 1px; margin: 26px 0 0; background: var(--grid);
  border: 1px solid var(--grid); border-radius: 8px; overflow: hidden; }
.tiles div { flex: 1 1 auto; background: var(--surface); padding: 12px 16px 13px; }
.tiles dt { color: var(--soft); font-size: 13px; }
.tiles dd { font-size: 22px; font-weight: 600; line-height: 1.3; white-space: nowrap; }
.tiles small { display: block; color: var(--faint); font-size: 12.5px; font-weight: 400; }
.card { background: var(--surface); border: 1px solid var(--grid); border-radius: 8px;
  padding: 16px 18px; margin-top: 26px; }
.card.bad { border-left: 4px solid var(--bad); }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 4px 22px; font-size: 14.5px; }
.facts dt { color: var(--soft); }
.facts dd { overflow-wrap: anywhere; }
.card table { margin-top: 14px; }
.scroll { overflow-x: auto; background: var(--surface); border: 1px solid var(--grid);
  border-radius: 8px; }
.card .scroll { border: 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px; white-space: nowrap; }
th, td { padding: 6px 14px; border-bottom: 1px solid var(--grid); vertical-align: baseline; }
tr:last-child td { border-bottom: 0; }
.n { text-align: right; white-space: nowrap; }
.badtext { color: var(--bad); font-weight: 600; }
.bar { min-width: 150px; width: 28%; }
.bar span { display: inline-block; height: 9px; border-radius: 2px; vertical-align: middle; }
.bar i { display: inline-block; height: 9px; vertical-align: middle; }
.c1 { background: var(--c1); } .c2 { background: var(--c2); } .c3 { background: var(--c3); }
.c4 { background: var(--c4); } .c5 { background: var(--c5); } .c6 { background: var(--faint); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; color: var(--soft); font-size: 13px;
  margin-bottom: 8px; }
.legend b { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px;
  vertical-align: -1px; }
summary { color: var(--soft); cursor: pointer; padding: 10px 0 8px; font-size: 14px; }
.note { margin-top: 18px; padding: 9px 14px; border-left: 3px solid var(--c3);
  background: var(--surface); color: var(--soft); font-size: 14px; }
footer { margin-top: 44px; color: var(--faint); font-size: 13px; }
)css";

}  // namespace halftone
