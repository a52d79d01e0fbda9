"""How the page of a run looks: light and dark, wide and narrow, on screen and on paper."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfb; --card: #ffffff; --ink: #1d2125; --quiet: #59636e; --line: #dcdfe3;
  --code: #f3f4f6; --link: #0072b2; --good: #00684b; --bad: #a63c00; --wait: #6b5500;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --card: #1d2126; --ink: #e4e7ea; --quiet: #a2abb5; --line: #363c44;
    --code: #23282e; --link: #6cb8ea; --good: #4cc9a0; --bad: #ff9a62; --wait: #e0c65a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 62rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .7rem; font-size: 1.25rem; }
p { margin: .5rem 0; overflow-wrap: anywhere; }
.head { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .9rem; }
.status {
  padding: .05rem .65rem; border: 1.5px solid currentColor; border-radius: 1rem; font-weight: 600;
}
.done { color: var(--good); }
.diverged { color: var(--bad); }
.interrupted, .unfinished { color: var(--wait); }
.quiet, figcaption, caption, dt { color: var(--quiet); }
.problems { padding: .3rem 1rem; border-left: 4px solid var(--bad); background: var(--card); }
.problems li { overflow-wrap: anywhere; white-space: pre-line; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { padding-bottom: .3rem; text-align: left; font-size: .9rem; white-space: nowrap; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; }
td { vertical-align: top; }
thead th { font-size: .9rem; color: var(--quiet); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; vertical-align: top; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; white-space: nowrap; }
.numbers td { padding-left: 1.2rem; }
.numbers tbody th { white-space: nowrap; }
.words td:last-child { min-width: 14rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .5rem 1.2rem;
  margin: .8rem 0; }
dl.long { grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); }
dl div { min-width: 0; }
dt { font-size: .85rem; }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.pictures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.2rem;
  align-items: start; }
figure { grid-column: 1 / -1; }
figure.tall { grid-column: auto; grid-row: span 2; }
figure.half { grid-column: auto; }
@media screen and (max-width: 50rem) { .pictures { grid-template-columns: minmax(0, 1fr); } }
figure { margin: 0; padding: .8rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #fff;
  border-radius: .25rem; }
figcaption { margin-top: .6rem; font-size: .9rem; }
pre { margin: .5rem 0; padding: .7rem .9rem; overflow-x: auto; border-radius: .4rem;
  background: var(--code); font-size: .86rem; line-height: 1.45; }
code { font-family: ui-monospace, "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace; }
details { margin: .6rem 0; border: 1px solid var(--line); border-radius: .4rem;
  padding: .4rem .8rem; }
summary { cursor: pointer; color: var(--link); font-weight: 600; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
footer { margin-top: 3rem; font-size: .85rem; color: var(--quiet); }
@page { margin: 1.5cm; }
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --quiet: #444; --line: #bbb; --code: #f5f5f5;
    --good: #000; --bad: #000; --wait: #000; --link: #000; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr, dl div { break-inside: avoid; }
  figure { padding: .4rem; }
  figure img { max-height: 9.5cm; width: auto; }
  h2 { margin-top: 1.2rem; }
  h2 { break-after: avoid; }
  .wide, pre { overflow: visible; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 8pt; }
  details::details-content { content-visibility: visible; block-size: auto; opacity: 1; }
}
"""
