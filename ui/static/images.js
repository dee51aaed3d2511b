// @ts-check
// The images people can install, and how one gets here: from this computer with
// a bar, or fetched by the node.

import { api, Refused } from './api.js';
import { complaint, show } from './dialogs.js';
import { h, keep } from './html.js';
import { bytes, plural, stamp, text } from './text.js';

export class Page {
  constructor(root, app) {
    this.app = app;
    /** @type {any} */ this.sending = null;
    this.list = h('div.wide', { tabIndex: 0, role: 'region', aria: { label: 'Images' } });
    this.imports = h('div');
    this.wrong = h('div');
    this.fields = {};
    root.replaceChildren(h('article.sheet', null, h('header', null, h('h1', null, 'Images')),
      h('section.card', null, this.list, this.imports), h('section.card', null, h('h2', null, 'Add an image'), this.form())));
    /** @type {Map<string, any>} */ this.running = new Map();
    this.onframe = (/** @type {any} */ e) => {
      const i = e.detail.type === 'import' ? e.detail.import : null;
      if (!i) return;
      if (i.done && !i.error) this.running.delete(i.name); else this.running.set(i.name, i);
    };
    app.store.addEventListener('frame', this.onframe);
  }

  leave() { this.app.store.removeEventListener('frame', this.onframe); }

  form() {
    const field = (/** @type {string} */ name, /** @type {string} */ label, /** @type {any} */ props, hint = '') => {
      const input = h('input', { id: `i-${name}`, autocomplete: 'off', spellcheck: false, ...props });
      const wrong = h('span.wrong', { id: `iw-${name}` });
      input.setAttribute('aria-describedby', `iw-${name} ih-${name}`);
      this.fields[name] = { input, wrong };
      return h('div.field', null, h('label', { htmlFor: input.id }, label), input, h('span.hint', { id: `ih-${name}` }, hint), wrong);
    };
    const rows = [
      h('div.pair', null, field('file', 'File on this computer', { type: 'file', onchange: () => this.guess() }, 'Raw disk image, also .gz, .xz or .zst'), field('url', 'Or an address the node fetches it from', { type: 'url', placeholder: 'https://…', onchange: () => this.guess() })),
      h('div.pair', null, field('name', 'Name', { type: 'text', placeholder: 'debian-12' }, 'a-z, 0-9, dot, dash and underscore'), field('sha256', 'SHA-256', { type: 'text', className: 'mono' }, 'If given, other bytes are refused.')),
    ];
    this.bar = h('i');
    this.track = h('div.track', { hidden: true, role: 'progressbar', aria: { label: 'Upload', valuemin: '0', valuemax: '100' } }, this.bar);
    this.add = h('button.primary', { type: 'submit' }, 'Add image');
    this.stop = h('button', { type: 'button', hidden: true, onclick: () => this.sending?.abort() }, 'Stop');
    return h('form.inside-more', { onsubmit: (/** @type {Event} */ e) => { e.preventDefault(); this.send(); } }, rows, this.wrong, h('div.actions', { data: { phase: 'installing' } }, this.add, this.stop, this.track));
  }

  /** A name from the file's, if none was typed. */
  guess() {
    const from = this.fields.file.input.files[0]?.name ?? this.fields.url.input.value.split(/[/?#]/).filter(Boolean).pop() ?? '';
    const name = this.fields.name.input;
    if (!name.value) name.value = from.toLowerCase().replace(/\.(raw|img|gz|xz|zst|bin)(?=\.|$)/g, '').replace(/[^a-z0-9._-]/g, '-').replace(/^[^a-z0-9]+/, '');
  }

  async send() {
    const v = (/** @type {string} */ n) => this.fields[n].input.value.trim();
    const file = this.fields.file.input.files[0];
    for (const { input, wrong } of Object.values(this.fields)) { input.removeAttribute('aria-invalid'); wrong.textContent = ''; }
    this.wrong.replaceChildren();
    if (!file && !v('url')) return this.fail(new Refused(400, { errors: [{ location: 'file', message: 'choose a file, or give an address' }] }));
    if (!v('name')) return this.fail(new Refused(400, { errors: [{ location: 'name', message: 'give the image a name' }] }));
    this.sending = new AbortController();
    this.add.disabled = true;
    this.stop.hidden = this.track.hidden = !file;
    const more = Object.fromEntries([['name', v('name')], ['sha256', v('sha256').toLowerCase()]].filter(([, x]) => x));
    try {
      if (file) await api.upload(file, more, (share) => this.share(share), this.sending.signal);
      else await api.fetchImage({ ...more, url: v('url') });
      for (const n in this.fields) this.fields[n].input.value = '';
    } catch (e) {
      this.fail(e);
    }
    this.sending = null;
    this.add.disabled = false;
    this.stop.hidden = this.track.hidden = true;
    this.share(0);
  }

  /** @param {number} share */
  share(share) {
    this.bar.style.transform = `scaleX(${share.toFixed(4)})`;
    this.track.setAttribute('aria-valuenow', String(Math.round(share * 100)));
  }

  fail(e) {
    let placed = false;
    for (const f of e instanceof Refused ? e.fields : []) {
      const field = this.fields[f.location.replace(/^(body|query)\.?/, '')];
      if (!field) continue;
      field.input.setAttribute('aria-invalid', 'true');
      field.wrong.textContent = f.message;
      placed = true;
    }
    if (!placed) this.wrong.replaceChildren(complaint(e));
  }

  paint() {
    const images = [...this.app.store.images.values()].sort((a, b) => a.name.localeCompare(b.name));
    const why = this.app.why('admin');
    const nodes = (this.app.store.cluster?.members ?? []).map((/** @type {any} */ m) => [m.name, m.described?.images ?? {}]);
    this.add.disabled = Boolean(why) || this.sending !== null;
    this.add.title = why;
    keep(this.list, [images, nodes, why, this.app.store.known], () => images.length
      ? h('table.plain', null, h('thead', null, h('tr', null, ['Name', 'Size', 'Stored', 'Digest', 'Source', 'Added', 'Used by', 'On', ''].map((x) => h(x ? 'th' : 'td', x ? { scope: 'col' } : null, x)))),
        h('tbody', null, images.map((i) => h('tr', null, h('td', null, h('b', null, i.name)), h('td', null, bytes(i.size_bytes)), h('td', null, bytes(i.stored_bytes)), h('td.mono', { title: i.digest }, i.digest.slice(0, 12)), h('td', null, i.source), h('td', null, stamp(i.created_at, this.app.store.now())), h('td', null, i.used_by ? plural(i.used_by, 'task', 'tasks') : ''), h('td', null, holders(i.digest, nodes)),
          h('td.right', null, h('button.small', { type: 'button', disabled: Boolean(why), title: why, aria: { label: `Delete ${i.name}` }, onclick: () => this.remove(i) }, 'Delete'))))))
      : this.app.store.known && [h('p', null, text.empty.images), h('p.soft', null, text.empty.imagesHow)]);
    const running = [...this.running.values()];
    keep(this.imports, running, () => running.map((r) => h(r.error ? 'p.note.bad' : 'p.note', null, r.error ? `${r.name}: ${r.error}` : `${r.name}: ${bytes(r.bytes_read)} read`)));
  }

  remove(image) {
    const wrong = h('div');
    const yes = h('button.danger', { type: 'button', onclick: async () => {
      try { await api.removeImage(image.name); d.close(); } catch (e) { wrong.replaceChildren(complaint(e)); }
    } }, `Delete ${image.name}`);
    const d = show({ title: `Delete image ${image.name}?`, narrow: true, body: [h('p', null, 'Machines installed from it stay as they are. To install it again it has to be added again.'), wrong], buttons: [yes] });
  }
}

/** Who holds an image: names, and how much of it where that is not all. @param {string} digest @param {any[]} nodes */
function holders(digest, nodes) {
  const on = nodes.filter(([, images]) => images[digest]?.have > 0);
  return on.map(([name, images]) => {
    const { have, total } = images[digest];
    return have >= total ? name : `${name} (${text.cluster.chunks(have, total)})`;
  }).join(', ');
}
