// The card at the top of the log of a run that has ended: why, after how long and in which step, its last lines that look like errors, and what
// one would do next. A run that ended well has none, unless it is not the latest one.

import { set, tint, useIcon } from './head.js';
import { acting, button, el, icon, looks } from './parts.js';
import { CARD, T, ending, verdict, visible } from './words.js';

await looks();

// `log` has the marks of the log: `errorMarks()`, `lastErrorLines(n)` and `goToMark(row)`.
export function makeCard(log) {
  let c;
  const picture = icon(''), heading = el('h2'), text = el('p', 'text'), lines = el('pre', { 'aria-label': CARD.lastLines, tabIndex: 0 });
  const again = acting('b', T.runAgain, () => c.act('start', { again: c.id }));
  const jump = button('b', CARD.jump, () => log.goToMark(log.errorMarks()[0]));
  const edit = acting('b', T.editAndRun, () => c.startForm({ run: c.id }));
  const row = el('div', 'actions', again, jump, edit);
  const element = el('section', 'card', el('header', '', picture, heading), text, lines, row);

  // Returns the element, or null where the run needs no card.
  function update(context) {
    c = context;
    const { run, isLatest, pipeline } = c;
    const tone = run?.outcome && ending(run.outcome).tone, isBad = !['succeeded', 'stopped'].includes(tone);
    if (!tone || isLatest && (pipeline.state !== 'stopped' || !isBad)) return null;
    const [title, sentence] = verdict(run, c.progress, c.now);
    set(heading, title);
    set(text, sentence);
    tint(element, tone);
    useIcon(picture, tone);
    const said = isBad ? log.lastErrorLines(6).map(visible).join('\n') : '';
    if (lines.textContent !== said) lines.textContent = said;
    lines.hidden = !said;
    edit.hidden = !c.connected || !c.mayAct || !pipeline.allowed.includes('start');
    again.hidden = isLatest || edit.hidden;
    jump.hidden = !isBad || !log.errorMarks().length;
    row.hidden = edit.hidden && jump.hidden;
    return element;
  }

  return { update };
}
