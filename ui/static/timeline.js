// @ts-check
// What a machine did, as a line of time with the newest boot's milestones, and
// why it stands, if it does.

import { h } from './html.js';
import { clock, duration, stamp, text } from './text.js';

/** The sign and the word of what stands. */
export function stalledSign() { return h('b.stalled', null, h('i', { aria: { hidden: 'true' } }), text.stalled); }

/** Why it stands and what to do. @param {any} s @param {number} now */
export function stallNote(s, now) {
  return h('div.note.bad.stall', { role: 'alert' }, h('p', null, stalledSign(), ' ', h('b', null, s.text)), h('p', null, h('b', null, `${text.whatToDo}: `), s.hint),
    h('p.soft', null, text.standsSince(stamp(s.since, now)), s.node && ` Node ${s.node} has seen it.`));
}

/** The newest boot as a line of milestones; all that was seen, and the boots before, on demand. @param {any[]} all oldest first */
export function timeline(all) {
  const t = text.timeline;
  if (!all.length) return [h('h2', null, t.title), h('p.soft', null, text.empty.timeline)];
  const from = Math.max(0, all.findLastIndex((m) => m.begins && m.milestone === 'asks'));
  const line = all.slice(from).filter((m) => m.milestone || m.stall);
  const longest = Math.max(1, ...line.map((m) => m.waited ? 0 : m.took_ms ?? 0));
  const before = all.slice(0, from);
  return [h('h2', null, t.title),
    line.length && h('ol.way-line', { tabIndex: 0, aria: { label: t.title } }, line.map((m) => stop(m, longest))),
    h('details', null, h('summary', null, `${t.every} (${all.length - from})`), seen(all.slice(from))),
    from > 0 && h('details', null, h('summary', null, `${t.before} (${before.filter((m) => m.milestone === 'asks').length || 1})`), seen(before))];
}

/** One stop of the line. @param {any} m @param {number} longest ms */
function stop(m, longest) {
  const t = text.timeline;
  const bar = h('i');
  bar.style.transform = `scaleX(${Math.min(1, (m.took_ms ?? 0) / longest).toFixed(4)})`;
  return h('li', { data: { milestone: m.milestone || m.step, ...(m.slowest ? { slowest: '' } : {}) } },
    h('time', { title: m.at }, clock(m.at)),
    m.stall && m.hint ? stalledSign() : h('b', null, t[m.milestone || m.step] ?? m.milestone),
    h('span.took', null, m.took_ms > 0 && [h('span.span', { aria: { hidden: 'true' } }, !m.waited && bar), h('span', null, took(m.took_ms)),
      m.slowest && h('em', null, t.slowest), m.waited && h('em.soft', null, t.waited)]),
    h('span', null, m.text, m.hint && h('span.soft', null, ` ${text.whatToDo}: ${m.hint}`), node(m)));
}

/** Every moment, the newest first. @param {any[]} all */
function seen(all) {
  return h('ol.lines.kinds', { tabIndex: 0, aria: { label: text.timeline.every } }, [...all].reverse().map((m) => h('li', null, h('time', { title: m.at }, clock(m.at)), h('span.kind', null, m.source), h('span', null, m.text, node(m)))));
}

/** The node that saw it, if that is another. @param {any} m */
function node(m) { return m.node && h('span.soft', null, ` (${m.node})`); }

/** A time that is over, to a tenth of a second if it was short. @param {number} ms */
function took(ms) { return ms < 9950 ? `${(ms / 1000).toFixed(1)} s` : duration(ms); }
