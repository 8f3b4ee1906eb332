// SPDX-License-Identifier: Apache-2.0
// What the page of a comparison adds to the style of a report (report/report_style.h). The classes
// are those of compare_page.cpp and compare_script_impl.h.
#pragma once

namespace halftone {

inline constexpr const char* kCompareStyle = R"css(
:root { --ok: var(--c2); --warn: var(--c3); --low: var(--c5); --wash: #f3f3f0; }
@media (prefers-color-scheme: dark) { :root { --wash: #242421; } }
main { max-width: 1480px; }
button, input { font: inherit; color: inherit; }
button { cursor: pointer; background: var(--surface); border: 1px solid var(--base);
  border-radius: 6px; padding: 3px 11px; }
button:hover { border-color: var(--faint); }
:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
a { color: var(--c1); }
.js .plain, html:not(.js) .scripted { display: none; }

.fine { --v: var(--ok); } .imprecise { --v: var(--warn); } .underflow { --v: var(--low); }
.overflow { --v: var(--bad); } .incomparable { --v: var(--faint); }
.mark { display: inline-block; flex: none; width: 10px; height: 10px; background: var(--v); }
.mark.fine { border-radius: 50%; }
.mark.imprecise { clip-path: polygon(50% 0, 100% 50%, 50% 100%, 0 50%); }
.mark.underflow { clip-path: polygon(0 12%, 100% 12%, 50% 100%); }
.mark.overflow { clip-path: polygon(50% 0, 100% 88%, 0 88%); }
.mark.incomparable { background: none; border: 2px solid var(--v); border-radius: 50%; }

.verdict { margin-top: 26px; padding: 18px 22px; background: var(--surface);
  border: 1px solid var(--grid); border-left: 6px solid var(--v); border-radius: 8px; }
.verdict.safe { --v: var(--ok); } .verdict.change_scale, .verdict.keep_fp32 { --v: var(--warn); }
.verdict.do_not_use { --v: var(--bad); }
.verdict h2 { font-size: 22px; margin-bottom: 6px; }
.verdict p { max-width: 80ch; }
.mend { position: relative; margin: 14px 0 8px; }
.mend pre { background: var(--page); padding-right: 100px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.mend button { position: absolute; top: 9px; right: 10px; }
.quiet { color: var(--faint); font-size: 13px; }

.controls { display: flex; flex-wrap: wrap; gap: 10px 22px; align-items: center; margin: 0 0 14px; }
.controls fieldset { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; border: 0;
  margin: 0; padding: 0; min-width: 0; }
.controls legend { float: left; padding: 0 4px 0 0; color: var(--soft); font-size: 13px; }
.controls button { font-size: 13px; padding: 2px 10px; border-radius: 99px; color: var(--faint);
  display: inline-flex; gap: 6px; align-items: center; }
.controls button .mark { opacity: .35; }
.controls button[aria-pressed=true] { color: var(--ink); border-color: var(--soft); }
.controls button[aria-pressed=true] .mark { opacity: 1; }
.controls input { width: 220px; padding: 4px 11px; font-size: 14px; background: var(--surface);
  border: 1px solid var(--base); border-radius: 6px; }

.split { display: grid; grid-template-columns: 268px minmax(0, 1fr); gap: 18px;
  align-items: start; }
html:not(.js) .split { display: block; }
.tree { position: sticky; top: 12px; max-height: calc(100vh - 24px); overflow: auto;
  background: var(--surface); border: 1px solid var(--grid); border-radius: 8px;
  padding: 8px 6px; font-size: 13.5px; }
.tree ul { list-style: none; margin: 0; padding: 0; }
.tree ul ul { padding-left: 15px; }
.tree li[aria-expanded=false] > ul { display: none; }
.tree li { outline: none; }
.node { display: flex; gap: 7px; align-items: center; padding: 2px 8px 2px 2px; border-radius: 5px;
  cursor: pointer; }
.node:hover { background: var(--wash); }
li[aria-selected=true] > .node { background: color-mix(in srgb, var(--c1) 16%, transparent); }
.tree li:focus-visible > .node { outline: 2px solid var(--c1); outline-offset: -1px; }
.twist { flex: none; width: 15px; text-align: center; color: var(--faint); }
.twist::before { content: ""; display: inline-block; border: 4px solid transparent;
  border-left-color: currentColor; margin-left: 4px; }
li[aria-expanded=true] > .node .twist::before { transform: rotate(90deg) translate(2px, 2px); }
.twist.leaf::before { content: none; }
.node b { font-weight: 400; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.count { margin-left: auto; color: var(--faint); font-size: 12px; white-space: nowrap; }
.count em { font-style: normal; font-weight: 600; color: var(--ink); }

.shown { color: var(--soft); font-size: 13px; margin-bottom: 6px; }
.scroll { overflow-x: auto; border: 1px solid var(--grid); border-radius: 8px;
  background: var(--surface); }
.scroll table { border: 0; font-size: 13.5px; background: none; }
.scroll th { font-size: 12.5px; white-space: nowrap; vertical-align: bottom; padding: 7px 9px; }
.scroll td { padding: 6px 9px; }
.scroll tbody tr:last-child > td { border-bottom: 0; }
.scroll th button { all: unset; cursor: pointer; }
.scroll th button:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
.scroll th button::after { content: " \2195"; color: transparent; }
.scroll th button:hover::after { color: var(--faint); }
th[aria-sort=descending] button::after { content: " \2193"; color: var(--ink); }
th[aria-sort=ascending] button::after { content: " \2191"; color: var(--ink); }
.scroll td.number { width: auto; }
td.what { white-space: nowrap; }
.label { display: inline-flex; gap: 7px; align-items: center; }
td.name, th.name { position: sticky; left: 0; background: var(--surface); }
td.name { min-width: 210px; }
td.name button { all: unset; cursor: pointer; }
html:not(.js) td.name button { cursor: auto; }
td.name button:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
.js tbody tr.row { cursor: pointer; }
.js tbody tr.row:hover { background: var(--wash); }
.js tbody tr.row:hover > .name, tr.row.open, tr.row.open > .name { background: var(--wash); }
td.name code { font-size: 12.5px; overflow-wrap: anywhere; }

td small { display: block; color: var(--faint); font-size: 12px; }
.ratio { min-width: 96px; }
.bar { position: relative; display: block; height: 5px; margin-top: 4px; border-radius: 3px;
  background: var(--grid); }
.bar i { position: absolute; inset: 0 auto 0 0; width: var(--w); min-width: 2px;
  border-radius: 3px; background: var(--v); }
.bar i[style="--w:0.0%"] { display: none; }
.bar b { position: absolute; top: -2px; bottom: -2px; left: 49.24%; width: 1px;
  background: var(--faint); }
.w { text-align: right; white-space: nowrap; }
.w .no { color: var(--bad); }
.js .w { display: none; }
.show0 .w0, .show1 .w1, .show2 .w2, .show3 .w3, .show4 .w4, .show5 .w5, .show6 .w6, .show7 .w7 {
  display: table-cell !important; }

.scroll tr.detail > td { padding: 0; background: var(--page); }
.panel { position: sticky; left: 0; padding: 14px 16px 16px; }
.panel h3 { margin-bottom: 2px; }
.panel .about { color: var(--soft); font-size: 13px; margin-bottom: 10px; }
.panel .choices { display: flex; flex-wrap: wrap; gap: 6px; align-items: center;
  font-size: 13px; margin-bottom: 8px; color: var(--soft); }
.panel .choices button { font-size: 13px; padding: 1px 9px; }
.panel .choices button[aria-pressed=true] { border-color: var(--c1); color: var(--c1); }
.panel .choices .apart { margin-left: auto; }
.panel svg { height: auto; overflow: hidden; }
.zone.flushed { fill: var(--low); opacity: .13; }
.zone.subnormal { fill: var(--warn); opacity: .12; }
.zone.overflows { fill: var(--bad); opacity: .13; } .zone.normal { fill: var(--c1); opacity: .05; }
.column.flushed { fill: var(--low); } .column.subnormal { fill: var(--warn); }
.column.normal { fill: var(--c1); } .column.overflows { fill: var(--bad); }
.edge { stroke: var(--soft); stroke-dasharray: 3 3; }
.zone-name { text-anchor: middle; }
svg .zone-name { fill: var(--soft); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line.flushed { stroke: var(--low); } .line.overflows { stroke: var(--bad); }
.band { fill: var(--ok); opacity: .15; }
.now { stroke: var(--ink); }
.scale { margin-top: 10px; }
.scale .legend { margin: 0 0 2px 8px; }
.key.flushed { --c: var(--low); } .key.overflows { --c: var(--bad); }
.key.would { --c: var(--ok); opacity: .35; }
.scale label { font-size: 13px; color: var(--soft); }
.scale input { display: block; width: 100%; margin: 2px 0 0; accent-color: var(--c1); }
.scale .marks { position: relative; height: 36px; font-size: 12px; margin: 0 8px; }
.scale .marks button { position: absolute; top: 2px; transform: translateX(-50%); font-size: 12px;
  padding: 0 7px; white-space: nowrap; }
.scale .marks button.end { transform: translateX(-100%); }
.scale .marks button.begin { transform: none; }
.panel output { display: block; margin-top: 6px; font-size: 14px; }
.words dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 20px;
  max-width: 110ch; }
.words dt { color: var(--soft); }
.words dt .mark { margin-right: 8px; }

@media (max-width: 1080px) {
  .split { display: block; }
  .tree { position: static; max-height: 232px; margin-bottom: 16px; }
  .scroll th, .scroll td { padding-left: 7px; padding-right: 7px; }
}
@media (max-width: 960px) {
  .label span:last-child { position: absolute; width: 1px; height: 1px; overflow: hidden;
    clip-path: inset(50%); }
  td.ratio { min-width: 58px; }
  .scroll th { font-size: 12px; }
  .scroll th:not([aria-sort]) button::after { content: none; }
  .scroll th, .scroll td { padding-left: 5px; padding-right: 5px; }
  .scroll tr > :nth-child(4) { display: none; }
  td.name { min-width: 150px; }
  .words dl { grid-template-columns: 1fr; gap: 0; }
  .words dd { margin-bottom: 8px; }
}
@media print {
  .controls, .tree, .mend button, .scale input, .choices { display: none !important; }
  .split { display: block; }
  .scroll { overflow: visible; border: 0; }
  main { max-width: none; padding: 0; }
  .scroll table, .scroll th { font-size: 10px; }
  .scroll th button::after { content: none !important; }
  .scroll th, .scroll td { padding: 3px 4px !important; }
  td small, td.name code { font-size: 9.5px; }
  td.name { min-width: 0; }
  tr { break-inside: avoid; }
}
)css";

}  // namespace halftone
