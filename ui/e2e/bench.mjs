// Looks at the fleet page of a node while 1,000 machines report to it or to another,
// and says how old what it shows is. Started by the browser benchmarks in ui, which
// speak to it in lines of JSON:
//   node bench.mjs URL
//   → {"Rows": n}                                   the page is live
//   ← {"start": ms, "from": %, "per_second": %, "seconds": n}   a percentage p was made at start + (p - from) / per_second
//   → figures, after so many seconds
import { createInterface } from 'node:readline';
import { launch } from './browser.mjs';

const url = process.argv[2];
if (!url) {
  console.error('error: which node?\nhint: node bench.mjs http://127.0.0.1:8080/');
  process.exit(2);
}
const say = (v) => console.log(JSON.stringify(v));
const lines = createInterface({ input: process.stdin });
const asked = new Promise((resolve, reject) => {
  lines.once('line', (l) => resolve(JSON.parse(l)));
  lines.once('close', () => reject(new Error('nobody has asked for anything')));
});
asked.catch(() => {});

const browser = await launch();
// Whoever asked has gone: nobody waits for an answer.
lines.on('close', async () => { await browser.close(); process.exit(); });

const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
const faults = [];
page.on('pageerror', (e) => faults.push(String(e)));
await page.goto(url);
await page.waitForSelector('body[data-link=live]', { state: 'attached' });
await page.waitForSelector('tr[data-key^="m/"]');
const cdp = await page.context().newCDPSession(page);
await cdp.send('Performance.enable');
const metrics = async () => Object.fromEntries((await cdp.send('Performance.getMetrics')).metrics.map((m) => [m.name, m.value]));

// The page's own store, met at the next frame it takes; the page stays as it is.
await page.evaluate(async () => {
  const { Store } = await import('/feed.js');
  const take = Store.prototype.take;
  window.seen = { frames: 0, values: 0, store: null };
  Store.prototype.take = function (f) {
    window.seen.store = this;
    window.seen.frames++;
    window.seen.values += f.items?.length ?? (f.type === 'progress' ? 1 : 0);
    return take.call(this, f);
  };
});
say({ Rows: Number((await page.textContent('#chips [data-filter=""] b')).replaceAll(',', '')) });

const run = await asked;
// Values are under way from the first moment; the figures begin when a bar has one.
await page.waitForFunction((from) => [...document.querySelectorAll('tr[data-key] .track:not([hidden]) i')].some((i) => Number(/scaleX\(([\d.]+)\)/.exec(i.style.transform)?.[1]) * 100 > from + 0.5), run.from);
const before = await metrics();
const saw = await page.evaluate(async ({ start, from, per_second: perSecond, seconds }) => {
  const age = (percent) => performance.timeOrigin + performance.now() - start - (percent - from) / perSecond * 1000;
  const bars = () => [...document.querySelectorAll('tr[data-key] .track:not([hidden]) i')].map((i) => age(Number(/scaleX\(([\d.]+)\)/.exec(i.style.transform)[1]) * 100));
  const { seen } = window;
  const began = performance.now(), frames = seen.frames, values = seen.values;
  const known = () => [...seen.store.rows.values()].filter((r) => r.task?.progress).map((r) => age(r.percent));
  const samples = [], all = [];
  // Not in step with the frames, or every look would fall on the same moment between two.
  await new Promise((resolve) => {
    const timer = setInterval(() => {
      const at = performance.now() - began;
      samples.push([at, bars()]);
      if (samples.length % 7 === 0) all.push([at, known()]);
      if (at < seconds * 1000) return;
      clearInterval(timer);
      resolve();
    }, 73);
  });
  const took = (performance.now() - began) / 1000;
  const part = (share, list) => list.toSorted((a, b) => a - b)[Math.min(list.length - 1, Math.floor(list.length * share))];
  const within = (looks, a, b) => looks.filter(([at]) => at >= a * 1000 && at <= b * 1000).flatMap(([, ages]) => ages);
  const every = within(samples, 0, took), last = within(samples, took - 2, took), whole = within(all, 0, took);
  return {
    samples: every.length, age_p50: part(0.5, every), age_p95: part(0.95, every), age_p99: part(0.99, every),
    all_p50: part(0.5, whole), all_p95: part(0.95, whole), all_p99: part(0.99, whole),
    first_p50: part(0.5, within(samples, 0, 2)), last_p50: part(0.5, last),
    end_screen: Math.max(...last), end_all: Math.max(...within(all, took - 2, took)), rows: bars().length, machines: known().length,
    frames: (seen.frames - frames) / took, values: (seen.values - values) / took,
  };
}, run);
const after = await metrics();
if (faults.length) throw new Error(`the page had errors: ${faults.join('; ')}`);
await cdp.send('HeapProfiler.collectGarbage');
const { JSHeapUsedSize: heap, Nodes: nodes } = await metrics();
say({ ...saw, busy: (after.TaskDuration - before.TaskDuration) / (after.Timestamp - before.Timestamp), nodes, heap_bytes: heap });
