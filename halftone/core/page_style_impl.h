// SPDX-License-Identifier: Apache-2.0
// What all HTML pages of this library have in common: colours, for light and dark, type, tiles,
// facts and notes.
#pragma once

namespace halftone {

/// A page's own style follows it.
inline constexpr const char* kPageStyle = R"css(
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
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 3px 20px; font-size: 14px; }
.facts dt { color: var(--soft); }
.facts dd { overflow-wrap: anywhere; }
.note { margin-top: 18px; padding: 9px 14px; border-left: 3px solid var(--c3);
  background: var(--surface); color: var(--soft); font-size: 14px; }
)css";

}  // namespace halftone
