// @ts-check
// Who may come in: one's own account, and for administrators the users and the API
// tokens of programs.

import { api } from './api.js';
import { complaint, show } from './dialogs.js';
import { h, keep } from './html.js';
import { plural, stamp, text } from './text.js';

const words = text.access;
const roles = ['viewer', 'operator', 'admin'];

export class Page {
  constructor(root, app) {
    this.app = app;
    /** @type {any[]|null} */ this.users = null;
    /** @type {any[]|null} */ this.tokens = null;
    this.problem = '';
    this.own = h('section.card');
    this.people = h('div.wide', { tabIndex: 0, role: 'region', aria: { label: words.users } });
    this.programs = h('div.wide', { tabIndex: 0, role: 'region', aria: { label: words.tokens } });
    this.wrong = h('div');
    this.newUser = h('button.primary', { type: 'button', onclick: () => this.addUser() }, words.addUser);
    this.newToken = h('button', { type: 'button', onclick: () => this.addToken() }, words.addToken);
    this.admin = h('div.admin', { hidden: true }, this.wrong,
      h('section.card', null, h('h2', null, words.users), this.people, h('div.actions', null, this.newUser)),
      h('section.card', null, h('h2', null, words.tokens), this.programs, h('div.actions', null, this.newToken)));
    root.replaceChildren(h('article.sheet', null, h('header', null, h('h1', null, words.title)), this.own, this.admin));
    this.load();
  }

  get isAdmin() { return this.app.socket.who?.role === 'admin'; }

  async load() {
    if (!this.isAdmin) return;
    try {
      [this.users, this.tokens] = [(await api.users()).users, (await api.tokens()).tokens];
      this.problem = '';
    } catch (e) {
      this.problem = e instanceof Error ? e.message : String(e);
    }
    this.app.dirty();
  }

  paint() {
    const who = this.app.socket.who;
    const why = this.app.why('admin');
    if (who && this.isAdmin && !this.users && !this.problem) this.load();
    keep(this.own, who, () => who && [
      h('h2', null, words.you),
      h('p', null, h('b', null, who.name), ` (${words.role[who.role] ?? who.role})`),
      !who.account && h('p.soft', null, words.noAccount),
      h('div.actions', null, who.account && h('button', { type: 'button', onclick: () => this.ownPassword() }, words.changePassword),
        h('button', { type: 'button', data: { act: 'sign-out' }, onclick: () => signOut() }, words.signOut))]);
    this.admin.hidden = !this.isAdmin;
    this.newUser.disabled = this.newToken.disabled = Boolean(why);
    this.newUser.title = this.newToken.title = why;
    keep(this.wrong, this.problem, () => this.problem && h('p.note.bad', null, this.problem));
    const now = this.app.store.now();
    keep(this.people, [this.users, why], () => this.users?.length
      ? table([words.name, words.may, words.state, words.sessions, words.since, ''], this.users.map((u) => [u.name, words.role[u.role] ?? u.role,
        u.disabled ? words.disabled : words.enabled, plural(u.sessions, 'session', 'sessions'), stamp(u.created_at, now),
        h('div.actions', null, this.does(u).map(([label, run]) => h('button.small', { type: 'button', disabled: Boolean(why), aria: { label: `${label} ${u.name}` }, onclick: run }, label)))]))
      : this.users && h('p.soft', null, words.noUsers));
    keep(this.programs, [this.tokens, why], () => this.tokens?.length
      ? table([words.name, words.may, words.whose, words.expires, ''], this.tokens.map((t) => [t.name, words.role[t.role] ?? t.role, t.user, stamp(t.expires_at, now),
        h('div.actions', null, h('button.small', { type: 'button', disabled: Boolean(why), aria: { label: `${words.revoke} ${t.name}` }, onclick: () => this.revoke(t) }, words.revoke))]))
      : this.tokens && h('p.soft', null, words.noTokens));
  }

  /** What may be done with a user. @param {any} u @returns {[string, () => void][]} */
  does(u) {
    return [
      [words.setRole, () => this.changeRole(u)],
      [words.setPassword, () => this.setPassword(u)],
      [u.disabled ? words.enable : words.disable, () => this.ask({
        title: u.disabled ? `Let ${u.name} in again?` : `Let ${u.name} in no more?`, button: u.disabled ? words.enable : words.disable, danger: !u.disabled,
        says: u.disabled ? '' : 'Every session ends at once, on every node, and so do the API tokens of the account.', run: () => api.changeUser(u.id, { disabled: !u.disabled }) })],
      [words.remove, () => this.ask({ title: `Forget ${u.name}?`, button: words.remove, danger: true, says: 'Sessions and API tokens of the account end at once. The audit keeps the name.', run: () => api.removeUser(u.id) })],
    ];
  }

  addUser() {
    const name = input('u-name', words.name, { autocomplete: 'off', autocapitalize: 'none', maxLength: 64 }, words.nameHint);
    const role = choice('u-role', words.may, 'operator');
    const password = input('u-password', words.password, { type: 'password', autocomplete: 'new-password', maxLength: 1024 }, words.passwordHint);
    this.ask({ title: words.addUser, button: words.addUser, body: [name.field, role.field, password.field],
      run: () => api.addUser({ name: name.input.value.trim(), role: role.input.value, password: password.input.value }) });
  }

  changeRole(u) {
    const role = choice('u-role', words.may, u.role);
    this.ask({ title: `What may ${u.name} do?`, button: words.setRole, says: words.endsSessions, body: [role.field], run: () => api.changeUser(u.id, { role: role.input.value }) });
  }

  setPassword(u) {
    const password = input('u-password', words.newPassword, { type: 'password', autocomplete: 'new-password', maxLength: 1024 }, words.passwordHint);
    this.ask({ title: `New password of ${u.name}`, button: words.setPassword, says: words.endsSessions, body: [password.field], run: () => api.changeUser(u.id, { password: password.input.value }) });
  }

  ownPassword() {
    const old = input('u-old', words.oldPassword, { type: 'password', autocomplete: 'current-password', maxLength: 1024 });
    const password = input('u-password', words.newPassword, { type: 'password', autocomplete: 'new-password', maxLength: 1024 }, words.passwordHint);
    this.ask({ title: words.changePassword, button: words.changePassword, says: words.endsYours, body: [old.field, password.field],
      run: () => api.changeOwnPassword({ old: old.input.value, new: password.input.value }) });
  }

  addToken() {
    const name = input('t-name', words.tokenName, { autocomplete: 'off', maxLength: 64 }, words.tokenHint);
    const role = choice('t-role', words.may, 'viewer');
    const days = input('t-days', words.days, { type: 'number', min: '1', max: '366', value: '90' });
    this.ask({ title: words.addToken, button: words.addToken, body: [name.field, role.field, days.field], run: async () => {
      const t = await api.addToken({ name: name.input.value.trim(), role: role.input.value, days: Number(days.input.value) || undefined });
      const key = h('pre', { tabIndex: 0, id: 't-key' }, t.key);
      show({ title: words.keyOnce, cancel: 'Close', body: [h('p', null, words.keyHow), key] });
      getSelection()?.selectAllChildren(key);
    } });
  }

  revoke(t) {
    this.ask({ title: `Revoke API token ${t.name}?`, button: words.revoke, danger: true, says: 'Programs that use it are let in no more, at once.', run: () => api.removeToken(t.id) });
  }

  /** A dialog that does one thing. @param {{title: string, button: string, says?: string, body?: any[], danger?: boolean, run: () => Promise<any>}} q */
  ask(q) {
    if (document.querySelector('dialog[open]')) return;
    const wrong = h('div');
    const yes = h(q.danger ? 'button.danger' : 'button.primary', { type: 'submit', data: { confirm: 'access' } }, q.button);
    const d = show({ title: q.title, narrow: true, body: [q.says && h('p', null, q.says), q.body, wrong], buttons: [yes] });
    d.querySelector('form')?.addEventListener('submit', async () => {
      yes.disabled = true;
      try {
        await q.run();
        d.close();
        this.load();
      } catch (e) {
        wrong.replaceChildren(complaint(e));
        yes.disabled = false;
      }
    });
    /** @type {any} */ (d.querySelector('input, select') ?? yes).focus();
  }
}

async function signOut() {
  try { await api.signOut(); } finally { location.reload(); }
}

/** @param {string} id @param {string} label @param {any} props */
function input(id, label, props, hint = '') {
  const input = h('input', { id, spellcheck: false, required: true, aria: { describedby: `${id}-hint` }, ...props });
  return { input, field: h('div.field', null, h('label', { htmlFor: id }, label), input, h('span.hint', { id: `${id}-hint` }, hint)) };
}

/** @param {string} id @param {string} label @param {string} now */
function choice(id, label, now) {
  const input = h('select', { id }, roles.map((r) => h('option', { value: r, selected: r === now }, words.role[r])));
  return { input, field: h('div.field', null, h('label', { htmlFor: id }, label), input) };
}

/** @param {string[]} heads @param {any[][]} rows */
function table(heads, rows) {
  return h('table.plain', null, h('thead', null, h('tr', null, heads.map((x) => h('th', { scope: 'col' }, x || h('span.vh', null, 'Actions'))))),
    h('tbody', null, rows.map((r) => h('tr', null, r.map((c) => h('td', null, c))))));
}
