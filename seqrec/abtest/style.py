"""How a result's page looks, in light and dark, on a desk and in a hand."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --faint: #5d636e; --line: #d9dce2; --page: #fff; --mark: #f3f5f9;
  --up: #00795a; --down: #c04e00; --flat: #3a68a8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ed; --faint: #a3a9b5; --line: #3b3f48; --page: #16181c; --mark: #22262d;
    --up: #2cc795; --down: #ff8a3d; --flat: #7fa8e0; }
}
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--page);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; overflow-wrap: anywhere; }
p, ul { max-width: 46rem; overflow-wrap: anywhere; }
.faint, summary { color: var(--faint); font-size: .9rem; }
.verdict { background: var(--mark); border-left: 5px solid var(--flat); padding: .7rem 1rem; margin: .8rem 0;
  overflow-wrap: anywhere; }
.verdict.ship { border-left-color: var(--up); }
.verdict.stop, .verdict.blocked, .verdict.hold { border-left-color: var(--down); }
.verdict strong { display: block; font-size: 1.15rem; } .verdict p { margin: .3rem 0 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .4rem 0 .8rem; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; } td.words { white-space: normal; min-width: 13rem; overflow-wrap: anywhere; }
td small { color: var(--faint); }
.passed, .safe { color: var(--up); } .failed, .harmed, .unclear, .unknown { color: var(--down); font-weight: 600; }
.noted { color: var(--faint); }
svg { display: block; width: 100%; max-width: 46rem; height: auto; margin: .5rem 0; overflow: visible; }
svg text { fill: var(--ink); font-size: 13px; paint-order: stroke; stroke: var(--page); stroke-width: 4px; }
svg line { stroke: var(--line); }
svg .zero { stroke: var(--faint); stroke-width: 1.4; }
svg .limit { stroke: var(--down); stroke-dasharray: 4 3; stroke-width: 1.4; }
svg .bar { stroke-width: 3; stroke-linecap: round; } svg .up { stroke: var(--up); fill: var(--up); }
svg .down { stroke: var(--down); fill: var(--down); } svg .flat { stroke: var(--flat); fill: var(--flat); }
svg .band { fill: var(--flat); opacity: .18; } svg .line { fill: none; stroke: var(--flat); stroke-width: 2.2; }
svg .dashes { fill: none; stroke: var(--faint); stroke-dasharray: 5 4; }
pre { background: var(--mark); padding: .7rem .9rem; overflow-x: auto; font-size: .8rem; line-height: 1.4; }
details { margin: .4rem 0; } summary { cursor: pointer; }
@media (max-width: 600px) {
  svg text { font-size: 22px; } body { padding: 1.2rem .9rem 3rem; }
  table { width: 100%; } thead { display: none; }
  tr { display: block; border-bottom: 1px solid var(--line); padding: .35rem 0; }
  td { display: block; border: 0; padding: .1rem 0; text-align: right; white-space: normal; }
  td::before { content: attr(data-head); color: var(--faint); float: left; padding-right: 1rem; }
  td:empty { display: none; } td[data-head=""] { text-align: left; } td.words { min-width: 0; }
  .checks td { display: inline-block; padding-right: .9rem; } .checks td.words { display: block; }
}
"""
