"""The page of a load report as a template for jinja2, with its style."""

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Load report: {{ headline }}</title>
<link rel="icon" href="data:,">
<style>
:root {{ '{' }}{% for role, colour in light.items() %}--c-{{ role }}:{{ colour }};{% endfor %}{{ '}' }}
@media (prefers-color-scheme: dark) {
:root {{ '{' }}{% for role, colour in dark.items() %}--c-{{ role }}:{{ colour }};{% endfor %}{{ '}' }}
}
{{ style|safe }}
</style>
</head>
<body>
<header>
<p class="over">Load report</p>
<h1>{{ headline }}</h1>
{% if report.comparison %}<p class="lead" id="comparison">{{ report.comparison }}</p>{% endif %}
<p class="quiet">{{ origin }}</p>
</header>
<main>
<section aria-labelledby="verdicts-title">
<h2 id="verdicts-title">Verdict</h2>
<div class="flows">
{% for flow in flows %}
<article class="card verdict {{ flow.tone }}" id="verdict-{{ loop.index }}">
<h3>{{ flow.full_name }}</h3>
<p class="badge"><span aria-hidden="true">{{ flow.sign }}</span> {{ flow.verdict }}</p>
<p>{{ flow.explanation }}</p>
</article>
{% endfor %}
</div>
<div class="card scroll" tabindex="0" role="region" aria-label="Key figures">
<table id="figures">
<caption>{{ 'Side by side' if flows|length > 1 else 'In figures' }}</caption>
<thead><tr><td></td>{% for flow in flows %}<th scope="col">{{ flow.name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for label, values in figures %}
<tr><th scope="row">{{ label }}</th>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
</section>
<section aria-labelledby="charts-title">
<h2 id="charts-title">Charts</h2>
<div class="charts {{ 'pairs' if flows|length > 1 }}">
{% for chart in charts %}
<section class="card chart" id="chart-{{ chart.key }}">
<h3>{{ chart.title }}</h3>
<p class="quiet">{{ chart.reading }}</p>
<div class="pictures">
{% for picture in chart.pictures %}
<figure>{% if flows|length > 1 %}<figcaption>{{ picture.name }}</figcaption>{% endif %}
{% if picture.missing %}<p class="missing">{{ picture.missing }}</p>{% else %}{{ picture.svg }}{% endif %}</figure>
{% endfor %}
</div>
</section>
{% endfor %}
</div>
</section>
<section aria-labelledby="stages-title">
<h2 id="stages-title">Stages</h2>
<div class="flows">
{% for flow in flows %}
<div class="card scroll" tabindex="0" role="region" aria-label="Stages of {{ flow.name }}">
<table class="stages" id="stages-{{ loop.index }}">
<caption>{{ flow.name }}</caption>
<thead><tr><th scope="col">{{ flow.axis }}</th>
{% for label, words in flow.loads %}<th scope="col" title="{{ words }}">{{ label }}</th>{% endfor %}</tr></thead>
{% for group in flow.groups %}
<tbody>
{% if group.title %}
<tr class="group"><th scope="rowgroup" colspan="{{ flow.loads|length + 1 }}">{{ group.title }}</th></tr>
{% endif %}
{% for label, values in group.rows %}
<tr><th scope="row">{{ label }}</th>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
{% endfor %}
</table>
</div>
{% endfor %}
</div>
</section>
<section aria-labelledby="errors-title">
<h2 id="errors-title">Errors by cause</h2>
<div class="flows">
{% for flow in flows %}
<div class="card" id="errors-{{ loop.index }}">
<h3>{{ flow.name }}</h3>
{% for cause in flow.causes %}
<article class="cause">
<h4>{{ cause.text }}</h4>
<dl>
<dt>Failed calls</dt><dd>{{ cause.count }} ({{ cause.where }})</dd>
<dt>Dependency</dt><dd>{{ cause.dependency }}</dd>
<dt>What to change</dt><dd>{{ cause.fix }}</dd>
<dt>Brought about by load</dt><dd>{{ cause.by_load }}</dd>
<dt>Code</dt><dd><code>{{ cause.code }}</code></dd>
</dl>
{% if cause.example %}<p class="quiet">Such an error</p>
<pre>{{ cause.example }}</pre>{% endif %}
</article>
{% else %}
<p>{{ flow.no_causes }}</p>
{% endfor %}
</div>
{% endfor %}
</div>
</section>
<section aria-labelledby="settings-title">
<h2 id="settings-title">The run</h2>
<div class="card">
<dl id="settings">
{% for label, value in settings %}<dt>{{ label }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
<p><a id="data" download="load-report.json" href="{{ data }}">All figures as JSON</a></p>
</div>
</section>
</main>
</body>
</html>
"""

STYLE = """\
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 1360px; padding: 20px 16px 48px; background: var(--c-ground); color: var(--c-ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
  overflow-wrap: anywhere;
}
h1, h2, h3, h4, p { margin: 0; text-wrap: pretty; }
h1 { font-size: clamp(21px, 2.4vw, 28px); line-height: 1.25; letter-spacing: -0.01em; max-width: 60ch; }
h2 { font-size: 19px; margin: 34px 0 12px; }
h3 { font-size: 16px; line-height: 1.35; }
h4 { font-size: 15px; }
.over { color: var(--c-muted); font-weight: 600; font-size: 13px; margin-bottom: 4px; }
.lead { margin-top: 10px; font-size: 16px; max-width: 80ch; }
.quiet { color: var(--c-muted); font-size: 13px; }
header .quiet { margin-top: 8px; }
main > section:first-child h2 { margin-top: 22px; }
.card { background: var(--c-paper); border: 1px solid var(--c-grid); border-radius: 8px; padding: 16px; min-width: 0; }
.flows { display: grid; gap: 12px; align-items: start; }
.verdict { border-left: 4px solid var(--c-muted); }
.verdict.good { border-left-color: var(--c-good); }
.verdict.bad { border-left-color: var(--c-bad); }
.badge { display: inline-block; font-weight: 650; margin: 4px 0 6px; color: var(--c-muted); }
.good .badge { color: var(--c-good); }
.bad .badge { color: var(--c-bad); }
.flows + .card { margin-top: 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 650; font-size: 16px; line-height: 1.35; padding-bottom: 8px; }
th, td { padding: 5px 0 5px 12px; text-align: right; vertical-align: top; border-top: 1px solid var(--c-grid); }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
thead th, thead td { border-top: 0; color: var(--c-muted); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 400; }
.stages .group th { font-weight: 600; padding-top: 14px; color: var(--c-muted); border-top: 0; }
.stages td, .stages th { overflow-wrap: normal; }
.stages td, .stages thead th:not(:first-child) { min-width: 4.2em; }
.stages th:first-child { min-width: 6em; position: sticky; left: 0; background: var(--c-paper); }
#figures { table-layout: fixed; }
#figures td, #figures thead th { text-align: left; }
#figures td:first-child { width: 34%; }
.charts { display: grid; gap: 12px; }
.pictures { display: grid; gap: 18px; margin-top: 10px; }
figure { margin: 0; min-width: 0; }
.missing { color: var(--c-muted); padding: 12px 0; }
figcaption {
  font-size: 13px; font-weight: 600; margin-bottom: 4px;
  display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden;
}
svg { display: block; width: 100%; max-width: 470px; height: auto; }
/* Chromium cuts scaled letters off at whole pixels otherwise. */
svg text { text-rendering: geometricPrecision; }
.cause { border-top: 1px solid var(--c-grid); margin-top: 12px; padding-top: 12px; }
dl { margin: 8px 0 0; display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 2px 16px; }
dt { color: var(--c-muted); font-size: 14px; }
dd { margin: 0; font-size: 14px; }
.cause .quiet { margin-top: 8px; }
pre {
  margin: 4px 0 0; padding: 10px 12px; border-radius: 6px; background: var(--c-ground); font-size: 12.5px;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 16em; overflow-y: auto;
}
a { color: var(--c-main); }
#settings + p { margin-top: 12px; }
@media (max-width: 520px) {
  .card { padding: 14px 12px; }
  table { font-size: 13px; }
  th, td { padding-left: 8px; }
  .stages td, .stages thead th:not(:first-child) { min-width: 3.6em; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: 6px; }
}
@media (min-width: 700px) {
  .pairs .pictures { grid-template-columns: 1fr 1fr; }
  .charts:not(.pairs) { grid-template-columns: 1fr 1fr; }
}
@media (min-width: 1000px) {
  .flows { grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); align-items: stretch; }
}
@media (min-width: 1200px) {
  .pairs { grid-template-columns: 1fr 1fr; }
  .charts:not(.pairs) { grid-template-columns: 1fr 1fr 1fr; }
}
@media print { .card { break-inside: avoid; } }
"""
