"""How pages look: light and dark, on a desk and on a phone."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --faint: #5d636e; --line: #d9dce2; --page: #fff; --mark: #f3f5f9;
  --good: #00795a; --bad: #c04e00; --shade: #0003; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ed; --faint: #a3a9b5; --line: #3b3f48; --page: #16181c; --mark: #22262d;
    --good: #2cc795; --bad: #ff8a3d; --shade: #fff3; }
}
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--page);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1, h2, h3, p, ul, .verdict { overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p, ul { max-width: 46rem; }
.faint, summary { color: var(--faint); font-size: .9rem; }
b.good { color: var(--good); } b.bad { color: var(--bad); }
.verdict { background: var(--mark); border-left: 4px solid var(--faint); padding: .5rem .9rem; margin: .4rem 0; }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
.verdict strong { display: block; font-size: 1.15rem; } .verdict p { margin: .2rem 0; }
/* What is wider than the screen scrolls, under a shadow on the side where it goes on. */
.scroll { overflow-x: auto; margin: .4rem 0 .8rem; background:
  linear-gradient(to right, var(--page) 40%, transparent) left / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--page) 40%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / 1rem 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .8rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tr > :first-child { position: sticky; left: 0; background: var(--page); }
th { vertical-align: bottom; } td { white-space: nowrap; }
td.words { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
td.words:has(code) { min-width: 20rem; }
td small { color: var(--faint); }
pre { background: var(--mark); padding: .6rem .9rem; overflow-x: auto; font-size: .8rem; line-height: 1.4; }
/* A command breaks between its words, never at the hyphens of a flag. */
code span { display: inline-block; max-width: 100%; overflow-wrap: anywhere; }
svg { display: block; max-width: 100%; height: auto; color: var(--ink); }
details { margin: .3rem 0 1rem; } summary { cursor: pointer; }
@media (max-width: 600px) {
  body { padding: 1.2rem .9rem 3rem; }
  td.words { min-width: 7rem; }
}
"""
