// SPDX-License-Identifier: Apache-2.0
// What probe.html adds to the style of all pages (core/page_style_impl.h).
#pragma once

namespace halftone {

inline constexpr const char* kProbeStyle = R"css(
h1.bad::before, h1.good::before { content: ""; display: inline-block; width: 13px; height: 13px;
  border-radius: 50%; margin-right: 12px; background: var(--c2); }
h1.bad::before { background: var(--bad); }
header .program { font-size: 14px; overflow-wrap: anywhere; margin-top: 4px; }
h2 { margin-bottom: 4px; }
section > p { max-width: 78ch; }
code, .op { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .93em; overflow-wrap: anywhere; }
.card { background: var(--surface); border: 1px solid var(--grid); border-radius: 8px;
  padding: 16px 18px; margin-top: 26px; }
.card.bad { border-left: 4px solid var(--bad); }
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
footer { margin-top: 44px; color: var(--faint); font-size: 13px; }
)css";

}  // namespace halftone
