// @ts-check
// A dialog to boot a machine into a profile, once. Where the profile may erase, it
// shows what the node says would die, and wants the serial as for an install.

import { api, Refused } from './api.js';
import { planDisks } from './disks.js';
import { complaint, show } from './dialogs.js';
import { h, keep } from './html.js';
import { contents, diskName } from './text.js';

/** @param {any} app @param {string} _action @param {any} row */
export function open(app, _action, row) {
  return new BootDialog(app, row);
}

class BootDialog {
  constructor(app, row) {
    this.app = app;
    this.row = row;
    /** What the node says it would take. @type {any} */ this.offer = null;
    /** @type {string[]} */ this.changed = [];
    this.busy = true;
    this.wrong = h('div');
    this.place = h('div', { aria: { live: 'polite' } });
    this.choice = h('select', { id: 'f-profile', oninput: () => this.look() });
    this.disk = h('select', { id: 'f-disk', oninput: () => this.look() }, h('option', { value: '' }, 'The smallest that fits'),
      (row.machine.summary?.disks ?? []).map((/** @type {any} */ d) => h('option', { value: d.id }, [d.id, d.model].filter(Boolean).join(' '))));
    this.diskField = h('div.field', { hidden: true }, h('label', { htmlFor: 'f-disk' }, 'Disk that may be erased'), this.disk);
    this.typed = h('input', { type: 'text', autocomplete: 'off', spellcheck: false, id: 'proof', oninput: () => this.buttons(), aria: { describedby: 'proof-hint' } });
    this.proofHint = h('span.hint', { id: 'proof-hint' });
    this.proofField = h('div.field', { hidden: true }, h('label', { htmlFor: 'proof' }, 'To let it erase the disk, type the last 4 characters of its serial number'), this.typed, this.proofHint);
    this.go = h('button.primary', { type: 'button', disabled: true, data: { confirm: 'boot' }, onclick: () => this.send() }, 'Boot once');
    this.onlink = () => this.buttons();
    app.socket.addEventListener('link', this.onlink);
    this.dialog = show({
      title: `Boot ${row.name} once into…`, cancel: 'Close', buttons: [this.go],
      body: [h('p', null, 'At its next netboot within an hour, and once: after that it boots its own disk. If it runs now, restart it yourself.'),
        h('div.field', null, h('label', { htmlFor: 'f-profile' }, 'Profile'), this.choice), this.diskField, this.place, this.proofField, this.wrong],
      closed: () => app.socket.removeEventListener('link', this.onlink),
    });
    this.start();
  }

  async start() {
    try {
      const { profiles } = await api.profiles();
      this.choice.replaceChildren(...profiles.map((/** @type {any} */ p) => h('option', { value: p.name }, [p.name, p.text].filter(Boolean).join(': '))));
      this.choice.focus();
      await this.look();
    } catch (e) {
      this.wrong.replaceChildren(complaint(e));
    }
  }

  /** Asks the node what the choice would take. */
  async look(changed = []) {
    const asked = this.asked = {};
    this.offer = null;
    this.changed = changed;
    this.typed.value = '';
    this.busy = false;
    this.wrong.replaceChildren();
    this.paint();
    try {
      const offer = await api.bootOffer(this.row.machine.id, this.choice.value, this.disk.value);
      if (this.asked === asked) this.offer = offer;
    } catch (e) {
      if (this.asked === asked) this.wrong.replaceChildren(complaint(e));
    }
    if (this.asked === asked) this.paint();
  }

  paint() {
    const o = this.offer;
    this.diskField.hidden = !o?.profile.erases;
    keep(this.place, [o, this.changed], () => [
      this.changed.length > 0 && h('div.note', { role: 'alert' }, h('p', null, 'Nothing was done, because the plan has changed. Read it again:'), h('ul', null, this.changed.map((c) => h('li', null, c)))),
      o && !o.profile.erases && h('p.note', null, 'It erases nothing by itself. Who sits at its console can do anything.'),
      o?.problem && h('p.note', null, o.problem),
      o?.plan && [h('h3', null, 'Disks'), planDisks(o.plan)],
      o?.plan?.warnings?.length && h('div.note', null, o.plan.warnings.map((/** @type {string} */ w) => h('p', null, w))),
    ]);
    this.proofField.hidden = !o?.confirm;
    if (o?.confirm) this.proofHint.textContent = `The disk holds ${contents(o.plan.erase.contents)}. Its serial number: ${o.confirm}`;
    this.buttons();
  }

  buttons() {
    const o = this.offer, why = this.app.why();
    const ready = o && (o.plan || !o.profile.erases);
    const proven = !o?.confirm || this.typed.value.trim().toLowerCase() === o.confirm.slice(-4).toLowerCase();
    this.go.textContent = o?.plan ? `Let ${o.profile.name} erase ${diskName(o.plan.erase)}` : 'Boot once';
    this.go.className = o?.plan ? 'danger' : 'primary';
    this.go.disabled = Boolean(why) || this.busy || !ready || !proven;
    this.go.title = why || (proven ? '' : 'Type the last 4 characters of the serial number first.');
  }

  async send() {
    const o = this.offer;
    if (this.busy || !o) return;
    this.busy = true;
    this.buttons();
    try {
      await api.boot(this.row.machine.id, { profile: o.profile.name, digest: o.profile.digest, disk: this.disk.value || undefined, plan_hash: o.plan_hash || undefined, confirm_serial: o.confirm ? this.typed.value.trim() : undefined });
      this.dialog.close();
    } catch (e) {
      if (e instanceof Refused && e.status === 412) return this.look(e.changed.length ? e.changed : [e.message]);
      this.busy = false;
      this.wrong.replaceChildren(complaint(e));
      this.buttons();
    }
  }
}
