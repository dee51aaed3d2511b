// @ts-check
// Disks drawn to scale, with what lies on them. The worst mistake of this kind
// of tool is the wrong disk, so each is named by what is printed on it.

import { h } from './html.js';
import { blank, bytes, contents, partition } from './text.js';

/** What lies on a disk in order of place: partitions, and the gaps between them. @param {any} d */
export function segments(d) {
  const parts = [...(d.contents?.partitions ?? [])].sort((a, b) => a.start_bytes - b.start_bytes);
  const out = [];
  let at = 0;
  for (const p of parts) {
    // Less than a thousandth of the disk is alignment and no space of its own.
    if (p.start_bytes - at > d.size_bytes / 1000) out.push({ size: p.start_bytes - at, part: null });
    out.push({ size: p.size_bytes, part: p });
    at = Math.max(at, p.start_bytes + p.size_bytes);
  }
  if (d.size_bytes - at > d.size_bytes / 1000) out.push({ size: d.size_bytes - at, part: null });
  return out;
}

/**
 * One disk.
 * @param {any} d a disk of an inventory or of a plan
 * @param {number} largest bytes of the largest disk beside it: it sets the scale
 * @param {"dies"|"stays"|""} fate
 */
function disk(d, largest, fate, verdict) {
  const bar = h('div.platter', { aria: { hidden: 'true' } }, segments(d).map((s) => {
    const share = s.size / d.size_bytes;
    const label = s.part ? s.part.fs_label || s.part.label || s.part.filesystem || s.part.type || '' : '';
    const i = h(`i${s.part ? '' : '.free'}${share < 0.08 ? '.thin' : ''}`, { title: s.part ? partition(s.part) : `free, ${bytes(s.size)}` }, share < 0.08 ? '' : label);
    i.style.flex = `${share} 1 0`;
    return i;
  }));
  // Half of the width tells the size, so that a small disk can still be read.
  bar.style.width = `${(50 + 50 * d.size_bytes / (largest || d.size_bytes)).toFixed(1)}%`;
  const facts = [d.transport, d.rotational === true ? 'rotating' : '', d.logical_sector > 512 ? `${d.logical_sector} B sectors` : '', d.removable ? 'removable' : '', d.read_only ? 'read-only' : '', d.name].filter(Boolean).join(' · ');
  return h(`li.disk${fate ? '.' + fate : ''}`, null,
    h('div.who', null, verdict && h('span.verdict', null, verdict), h('b', null, [bytes(d.size_bytes), d.model].filter(Boolean).join(' ')),
      d.serial && h('span.mono', null, d.serial), d.wwn && h('span.mono.soft', null, d.wwn), h('span.soft', null, facts)),
    bar,
    h('div', { className: blank(d.contents) ? 'soft' : '' }, fate === 'dies' && !blank(d.contents) ? `On it now: ${contents(d.contents)}` : contents(d.contents)),
    d.contents?.partitions?.length ? h('ul.parts', null, d.contents.partitions.map((/** @type {any} */ p) => h('li', null, partition(p)))) : null);
}

/** All disks of a machine. @param {any[]} disks @param {any} [eraseID] the one the plan erases, by serial or WWN */
export function disks(disks, eraseID) {
  const largest = Math.max(...disks.map((d) => d.size_bytes));
  return h('ul.disks', null, disks.map((d) => {
    const dies = eraseID && (d.wwn || '') === (eraseID.wwn || '') && (d.serial || '') === (eraseID.serial || '') && d.size_bytes === eraseID.size_bytes;
    return disk(d, largest, dies ? 'dies' : '', dies ? 'To be erased' : '');
  }));
}

/** The disks of a plan: the one that dies, then those that stay. @param {any} plan */
export function planDisks(plan) {
  const others = plan.untouched ?? [];
  const largest = Math.max(plan.erase.size_bytes, ...others.map((/** @type {any} */ d) => d.size_bytes));
  return h('ul.disks', null, disk(plan.erase, largest, 'dies', 'Will be erased'), others.map((/** @type {any} */ d) => disk(d, largest, 'stays', 'Stays as it is')));
}
