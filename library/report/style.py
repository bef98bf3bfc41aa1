"""The looks of `report.html`: its style sheet, and the few lines of script that read off curves."""

# Colours are variables, so that dark mode redefines them and nothing else.
CSS = """
:root{--page:#f6f7f9;--card:#fff;--ink:#1c2128;--faint:#656d76;--rule:#e1e5ea;--code:#eef1f4;
--good:#1a7f45;--good-bg:#e2f5e9;--bad:#c0303c;--bad-bg:#fde8ea;--muted-bg:#eceff2;
--s0:#3963bd;--s1:#be4629;--s2:#0c8463;--s3:#b98b00;--s4:#7a2f7a;--s5:#4a9fd8}
@media(prefers-color-scheme:dark){:root{--page:#0e1116;--card:#161b22;--ink:#e3e8ee;
--faint:#8d96a0;--rule:#2b323b;--code:#1f262e;--good:#56d08a;--good-bg:#12301f;--bad:#ff8b92;
--bad-bg:#3d171b;--muted-bg:#222932;
--s0:#749ef6;--s1:#e88454;--s2:#35be95;--s3:#edc848;--s4:#ac86bc;--s5:#a9def2}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:44px 24px 72px}
h1{font-size:clamp(1.45rem,3.4vw,2.1rem);line-height:1.22;letter-spacing:-.015em;margin:.2em 0 .5em;
max-width:32em;text-wrap:balance}
h2{font-size:.8rem;letter-spacing:.09em;text-transform:uppercase;color:var(--faint);
margin:2.6rem 0 .8rem}
h3{font-size:.95rem;margin:0}h3 small{font-weight:400;color:var(--faint)}
.facts{color:var(--faint);font-size:.9rem;margin:0}
.verdict,.pill{display:inline-block;font-weight:600;border-radius:99px;white-space:nowrap}
.verdict{padding:.25em .95em;margin:0 0 .9rem}.pill{padding:.1em .75em;font-size:.85rem}
.good{color:var(--good);background:var(--good-bg)}.bad{color:var(--bad);background:var(--bad-bg)}
.muted{color:var(--faint);background:var(--muted-bg)}
.prose{max-width:44em}.prose p{margin:.55em 0}
pre,code{font:.86em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
background:var(--code);border-radius:6px}
pre{padding:.7em .95em;overflow-x:auto}code{padding:.1em .35em}
.claims{width:100%;border-collapse:separate;border-spacing:0;background:var(--card);
border:1px solid var(--rule);border-radius:12px;overflow:hidden}
.claims th,.claims td{padding:.7em 1em;text-align:left;vertical-align:baseline}
.claims th{font-size:.82rem;font-weight:600;color:var(--faint)}
.claims td{border-top:1px solid var(--rule)}
.claims .name{font-weight:600}.claims .source{color:var(--faint);font-size:.92rem}
.claims .number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.charts{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr))}
.chart,.picture,.pairs{margin:0;background:var(--card);border:1px solid var(--rule);
border-radius:12px}
.chart{padding:14px 14px 6px}
.chart figcaption p{margin:.1em 0 .4em;font-size:.85rem;display:flex;flex-wrap:wrap;gap:0 1.1em}
.chart span b{font-weight:600}
.chart svg{display:block;width:100%;height:auto;overflow:visible;touch-action:pan-y}
.chart text{font-size:11px;fill:var(--faint);font-variant-numeric:tabular-nums}
text.y{text-anchor:end}text.x{text-anchor:middle}
.grid{stroke:var(--rule);stroke-width:1}.cross{stroke:var(--faint);stroke-width:1;display:none}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.band{opacity:.18}
span.s0{color:var(--s0)}span.s1{color:var(--s1)}span.s2{color:var(--s2)}
span.s3{color:var(--s3)}span.s4{color:var(--s4)}span.s5{color:var(--s5)}
.line.s0{stroke:var(--s0)}.line.s1{stroke:var(--s1)}.line.s2{stroke:var(--s2)}
.line.s3{stroke:var(--s3)}.line.s4{stroke:var(--s4)}.line.s5{stroke:var(--s5)}
.band.s0,circle.s0{fill:var(--s0)}.band.s1,circle.s1{fill:var(--s1)}
.band.s2,circle.s2{fill:var(--s2)}.band.s3,circle.s3{fill:var(--s3)}
.band.s4,circle.s4{fill:var(--s4)}.band.s5,circle.s5{fill:var(--s5)}
.note{color:var(--faint);font-size:.9rem}
.pictures{columns:2;column-gap:16px}
.picture{break-inside:avoid;margin:0 0 16px;padding:10px;overflow:hidden}
.picture img{display:block;max-width:100%;height:auto;background:#fff;border-radius:6px}
.picture figcaption{font-size:.88rem;color:var(--faint);padding:.55em .2em 0}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));
gap:0 2.2em;padding:.5em 1.1em;font-size:.92rem}
.pairs div{display:flex;justify-content:space-between;gap:1.2em;padding:.32em 0;
border-bottom:1px solid var(--rule);min-width:0}
.pairs dt{color:var(--faint);min-width:0;overflow-wrap:anywhere}
.pairs dd{margin:0;text-align:right;flex-shrink:0;max-width:65%;overflow-wrap:anywhere;
font-variant-numeric:tabular-nums}
@media(max-width:720px){main{padding:26px 16px 48px}.pictures{columns:1}
.claims thead{display:none}.claims tr{display:grid;grid-template-columns:1fr auto;column-gap:1em;
padding:.8em 1em;border-top:1px solid var(--rule)}.claims tr:first-child{border-top:0}
.claims td{border:0;padding:.12em 0;display:block}
.claims td.name,.claims td.source{grid-column:1/-1}.claims td:last-child{grid-column:1/-1}
.claims .number{text-align:left;white-space:normal}
.claims .number::before{content:attr(data-label) " ";color:var(--faint)}
.claims td:last-child{padding-top:.4em}}
@media print{body{background:#fff}.chart,.picture,section{break-inside:avoid}}
"""

# The legend of a chart shows the values under the pointer; leaving it brings the last ones back.
SCRIPT = """
for(const chart of document.querySelectorAll('.chart')){
  const series=JSON.parse(chart.dataset.series),svg=chart.querySelector('svg');
  const cross=svg.querySelector('.cross'),spans=[...chart.querySelectorAll('figcaption span')];
  const last=spans.map(span=>span.innerHTML);
  svg.addEventListener('pointermove',event=>{
    const box=svg.getBoundingClientRect();
    const x=(event.clientX-box.left)/box.width*svg.viewBox.baseVal.width;
    series.forEach(([name,points,texts],s)=>{
      let best=0;
      points.forEach((p,i)=>{if(Math.abs(p[0]-x)<Math.abs(points[best][0]-x))best=i});
      const bold=document.createElement('b');bold.textContent=name;
      spans[s].replaceChildren(bold,' '+texts[best][1]+' at '+texts[best][0]);
      if(s==0){cross.setAttribute('x1',points[best][0]);cross.setAttribute('x2',points[best][0])}
    });
    cross.style.display='block';
  });
  svg.addEventListener('pointerleave',()=>{
    spans.forEach((span,s)=>span.innerHTML=last[s]);cross.style.display='none'});
}
"""
