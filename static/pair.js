// The dialog that pairs a phone: a link that logs in another browser once, and its QR code.
//
// The server makes the link and the code. While the dialog is open, the page asks the server whether the link was used.

import { el, set } from './dom.js';
import { button, code, copyLine, foot, get } from './parts.js';
import { PAIR, T } from './words.js';

export function openPair({ ask }) {
  // The server's answer for the current choice.
  let answer;
  const option = (words) => new Option(words);
  const pick = (words, onchange, options) => el('select', { className: 'f', ariaLabel: words, onchange }, options);
  const may = pick(T.access, choose, PAIR.may.map(option)), at = pick(T.server, draw);
  const path = el('path'), svg = el('svg', { 'aria-hidden': true }, path);
  const told = el('p', { role: 'status' }), url = code(''), left = el('p'), close = button('b', T.close, () => dialog.close());
  const shown = el('div', 'qr', at, svg, copyLine(url), left);
  // Removing the dialog removes the link from the page.
  const dialog = el('dialog', { id: 'pairing', className: 'sheet', ariaLabel: PAIR.title, onclose: () => dialog.remove() },
    el('h2', '', PAIR.title), may, told, shown, foot(close));
  document.body.append(dialog);
  dialog.showModal();
  choose();
  watch();

  async function choose() {
    const mine = answer = {}, body = JSON.stringify({ may: may.selectedIndex ? 'look' : 'act' });
    draw();
    const init = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body };
    Object.assign(mine, await get(ask, 'api/pair', init), { until: Date.now() + 6e5 });
    draw();
  }

  function draw() {
    const { links, problem, end, until } = answer;
    if (links && at.length !== links.length) at.replaceChildren(...links.map((link) => option(link.url.split('/#')[0])));
    const link = !end && links?.[at.selectedIndex];
    set(told, problem ?? (end || (!links ? T.asked : link ? '' : PAIR.none)));
    // The focus must not be lost with the hidden part.
    if (!link && shown.contains(document.activeElement)) close.focus();
    shown.hidden = !link;
    at.hidden = at.length < 2;
    if (!link) return;
    // A QR reader needs a light border, four modules wide.
    const size = link.qr.size + 8;
    svg.setAttribute('viewBox', `-4 -4 ${size} ${size}`);
    path.setAttribute('d', link.qr.path);
    set(url, link.url);
    set(left, PAIR.works(Math.max(0, until - Date.now())));
  }

  // Once a second, shows the remaining time and asks whether the link was used.
  async function watch() {
    while (dialog.open) {
      const mine = answer, { id } = mine, { codes } = await get(ask, 'api/sessions'), listed = codes?.find((it) => it.id === id);
      if (codes && id) mine.end = listed ? listed.is_used && PAIR.used : mine.end || PAIR.expired;
      draw();
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}
