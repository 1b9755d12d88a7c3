"""How a report looks: its style sheet, and the patterns that tell states apart without colours. Text only."""

from __future__ import annotations

STATES = ("COMPLETE", "FAILED", "CANCELLED", "RUNNING", "FINISHING", "UNKNOWN", "PENDING", "READY")
"""The order of states in legends and tables."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;--panel:#f5f7f9;--grid:#e4e8ed;
--level:#3b6fb6;--COMPLETE:#2f8f6b;--FAILED:#c8372d;--CANCELLED:#c79100;--RUNNING:#2b83ba;--FINISHING:#5aa9d6;
--UNKNOWN:#8e4fa8;--PENDING:#7b8794;--READY:#aab3bd}
@media (prefers-color-scheme:dark){:root{--paper:#14181d;--ink:#e4e8ed;--soft:#9aa5b1;--line:#323a44;--panel:#1c2229;
--grid:#2a313a;--level:#6aa0e6;--COMPLETE:#46b88c;--FAILED:#ec6a5e;--CANCELLED:#dcae3b;--RUNNING:#57aede;
--FINISHING:#8cc8ea;--UNKNOWN:#bd86d4;--PENDING:#8d99a6;--READY:#6b7682}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem;max-width:74rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.25rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.25rem 0 .25rem}
p{margin:.4rem 0}
a{color:var(--level)}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:.75rem 0 0;font-size:.9rem}
.soft,figcaption{color:var(--soft);font-size:.9rem}
.about{color:var(--soft);overflow-wrap:anywhere}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.75rem 0}
dl.facts dt{color:var(--soft)}
dl.facts dd{margin:0;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.6rem;margin:.75rem 0;padding:0;
list-style:none}
.cards li{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.5rem .75rem}
.cards b{display:block;font-size:1.3rem;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.cards span{color:var(--soft);font-size:.85rem}
.wide{overflow-x:auto;margin-bottom:.75rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
table.small{width:auto;min-width:16rem;max-width:100%}
caption{text-align:left;color:var(--soft);padding:.25rem 0;font-size:.9rem}
th,td{text-align:left;padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;white-space:nowrap}
td{overflow-wrap:anywhere;min-width:4rem}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.s{white-space:nowrap}
td.w{min-width:12rem}
tr.more td{padding-top:0}
tr.first td{border-bottom:0}
code,pre{font:.85em/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
td code{white-space:nowrap}
pre{margin:0;padding:.5rem .75rem;background:var(--panel);border-left:3px solid var(--FAILED);white-space:pre-wrap;
overflow-wrap:anywhere}
.key{display:inline-block;width:.9em;height:.9em;margin-right:.35em;vertical-align:-.08em}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;margin:.5rem 0;padding:0;list-style:none;font-size:.9rem}
figure{margin:.5rem 0 1.25rem}
svg{display:block;max-width:100%}
.picture{width:100%;min-width:38rem;height:auto}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:var(--soft)}
svg text.name{fill:var(--ink)}
.grid{stroke:var(--grid);fill:none}
.axis{stroke:var(--soft);fill:none}
.lane{fill:var(--panel)}
.most{fill:none;stroke:var(--level);stroke-width:1;opacity:.75}
.mean{fill:var(--level);opacity:.35;stroke:none}
.bound{stroke:var(--ink);stroke-dasharray:5 4;fill:none}
details>summary{cursor:pointer;margin:.5rem 0}
footer{margin-top:2.5rem;padding-top:.75rem;border-top:1px solid var(--line);color:var(--soft);font-size:.85rem}
@media (max-width:40rem){body{padding:1rem}dl.facts{grid-template-columns:1fr}dl.facts dd{margin-bottom:.35rem}}
@media print{:root{color-scheme:light;--paper:#fff;--ink:#000;--soft:#444;--line:#bbb;--panel:#f3f3f3;--grid:#ddd;
--level:#3b6fb6;--COMPLETE:#2f8f6b;--FAILED:#c8372d;--CANCELLED:#c79100;--RUNNING:#2b83ba;--FINISHING:#5aa9d6;
--UNKNOWN:#8e4fa8;--PENDING:#7b8794;--READY:#aab3bd}
body{max-width:none;padding:0;font-size:11px}nav{display:none}figure,tr,.cards li{break-inside:avoid}h2,h3{break-after:avoid}
.wide{overflow:visible}.picture{min-width:0}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""

_STROKES = {
    "FAILED": "M0 6L6 0M-1 1L1 -1M5 7L7 5",
    "CANCELLED": "M0 3H6",
    "RUNNING": "M3 0V6",
    "FINISHING": "M3 0V6",
    "UNKNOWN": "M0 0L6 6M0 6L6 0",
}


def fill_of(state: str) -> str:
    """The fill of what stands for a state: its colour, with lines across unless it is COMPLETE."""
    if state in _STROKES:
        return f"url(#p-{state})"
    return f"var(--{state})" if state in STATES else "var(--UNKNOWN)"


def state_rules() -> str:
    """Style rules that give ``.COMPLETE`` and the others their fill."""
    return "".join(f".{state}{{fill:{fill_of(state)}}}" for state in STATES)


def patterns() -> str:
    """The patterns, as an SVG that takes no room; other pictures of the page refer to them."""
    made = "".join(
        f'<pattern id="p-{state}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect width="6" height="6" style="fill:var(--{state})"/>'
        f'<path d="{stroke}" style="stroke:var(--paper);stroke-width:1.3;opacity:.7;fill:none"/></pattern>'
        for state, stroke in _STROKES.items()
    )
    return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{made}</defs></svg>'
