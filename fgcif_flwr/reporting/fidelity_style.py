"""The style sheet of a fidelity page, for light and dark screens and for paper."""

from __future__ import annotations

STYLE = """
:root{--ink:#1c2430;--soft:#5b6675;--line:#dde2e8;--page:#f5f6f8;--card:#fff;--real:#7d97b8;
--made:#ca5a1e;--bad:#a52a1a;--badpage:#fbeae6}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b4;--line:#333b47;--page:#14181e;
--card:#1d232b;--real:#5f7da3;--made:#f0873f;--bad:#ff9d8a;--badpage:#3a201b}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 22px 60px}
h1{font-size:26px;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:18px;margin:34px 0 10px}
p{margin:6px 0}
.note,small,.unit{color:var(--soft);font-size:13px}
.warn{border-left:3px solid var(--made);padding:4px 12px;color:var(--soft);font-size:13px;
margin:14px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(195px,1fr));gap:12px}
.tile span{display:block;color:var(--soft);font-size:13px}
.tile b{display:block;font-size:25px;line-height:1.3;font-variant-numeric:tabular-nums}
.tile small{display:block;line-height:1.35}
.statement{background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:10px 14px}
.verdict{padding:8px 14px;border-radius:8px;border:1px solid var(--line);background:var(--card)}
.bad{color:var(--bad);background:var(--badpage);border-color:transparent}
.wide{overflow-x:auto;margin:12px 0}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line);
font-variant-numeric:tabular-nums;font-size:14px}
th{font-weight:600;font-size:13px;color:var(--soft)}
th,td{padding:6px 12px;border-bottom:1px solid var(--line);text-align:left}
.n{text-align:right;white-space:nowrap}
th.n{white-space:normal}
tbody tr:last-child td{border-bottom:0}
figure{margin:0}
figcaption{font-size:13px;margin-bottom:8px;overflow-wrap:anywhere}
figcaption .note{display:block;font-size:12px}
.tag{font-size:11px;border:1px solid var(--line);border-radius:9px;padding:0 7px;
color:var(--soft)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(265px,1fr));gap:12px}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(330px,1fr));gap:12px}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:10.5px;fill:var(--soft)}
svg .real{fill:var(--real)}
svg .made{fill:none;stroke:var(--made);stroke-width:1.8;stroke-linejoin:round}
svg .made-bar{fill:var(--made)}
svg .axis{stroke:var(--line)}
.key{width:210px;margin-top:4px}
.swatch{display:inline-block;width:14px;height:9px;border-radius:2px;margin:0 3px 0 8px}
.swatch.real{background:var(--real);margin-left:0}
.swatch.made{background:var(--made)}
@media print{body{background:#fff}.card,figure{break-inside:avoid}main{max-width:none}}
"""
