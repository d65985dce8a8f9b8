/** The look of a report: light or dark as the reader's system is, in columns where there is room, ink on white in print. */
export const STYLE = `
:root { color-scheme: light dark; --paper: #ffffff; --panel: #f5f6f7; --ink: #1b1d20; --muted: #54585e; --grid: #e2e4e7; --frame: #8b9097; --link: #005a9c; --mark: #fff1b8;
  --c1: #0072b2; --c2: #d55e00; --c3: #009e73; --c4: #b4568d; --c5: #b87f00; --c6: #5b4bb0; --c7: #1b1d20; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --panel: #1d2026; --ink: #e9eaec; --muted: #a8adb5; --grid: #2e323a; --frame: #6d737c; --link: #7cc4f5; --mark: #4d4212;
  --c1: #56b4e9; --c2: #f48f4f; --c3: #3cc79f; --c4: #e3a0c8; --c5: #f0b83f; --c6: #b9aaf5; --c7: #e9eaec; } }
@media print { :root { color-scheme: light; --paper: #ffffff; --panel: #ffffff; --ink: #000000; --muted: #444444; --grid: #dddddd; --frame: #888888; --link: #000000; --mark: #eeeeee;
  --c1: #0072b2; --c2: #d55e00; --c3: #009e73; --c4: #b4568d; --c5: #b87f00; --c6: #5b4bb0; --c7: #000000; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: 0.5rem 0 0; line-height: 1.25; }
h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 1rem 0 0.25rem; }
p { margin: 0.25rem 0; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -100rem; } .skip:focus { position: static; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; list-style: none; padding: 0; margin: 0.75rem 0; }
.muted { color: var(--muted); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.75rem; margin: 1rem 0; }
.tiles div { background: var(--panel); border: 1px solid var(--grid); border-radius: 0.5rem; padding: 0.5rem 0.75rem; }
.tiles dt { color: var(--muted); font-size: 0.85rem; } .tiles dd { margin: 0; font-size: 1.1rem; font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0.5rem; }
figure { margin: 0.5rem 0; } figure svg { display: block; width: 100%; height: auto; }
.charts figure svg { max-width: 30rem; }
.narrow { display: none; }
@media screen and (max-width: 40rem) { .narrow { display: block; } .wide { display: none; } }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding: 0.25rem 0; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid var(--grid); font-weight: 400; overflow-wrap: anywhere; }
th { overflow-wrap: normal; } thead th { font-weight: 600; } .number { text-align: right; white-space: nowrap; }
.scroll { overflow-x: auto; max-height: 30rem; overflow-y: auto; }
summary { cursor: pointer; padding: 0.25rem 0; }
.text { white-space: pre-wrap; background: var(--panel); border: 1px solid var(--grid); border-radius: 0.5rem; padding: 0.5rem 0.75rem; margin: 0.25rem 0; }
mark { background: var(--mark); color: inherit; }
@media print { nav, .skip { display: none; } body { padding: 0; } figure, tr, .text { break-inside: avoid; } h2, h3, caption { break-after: avoid; } .scroll { max-height: none; overflow: visible; } }
`;
