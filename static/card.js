// The card at the top of the log of a run that has ended: why, after how long and in which step, its last lines that look like errors, and what
// one would do next. A run that ended well has none, unless it is not the latest one.

import { el, icon, set, setText, tint, useIcon } from './dom.js';
import { errorRows, lastErrorLines } from './log-rows.js';
import { reveal } from './log.js';
import { acting, button } from './parts.js';
import { CARD, ending, T, verdict, visible } from './words.js';

let c;
const picture = icon('idle'), heading = el('h2'), text = el('p', 'text'), lines = el('pre', { ariaLabel: CARD.lastLines, tabIndex: 0 });
const jump = button('b', CARD.jump, () => reveal(errorRows[0]));
const edit = acting('b', T.editAndRun, () => c.startForm({ run: c.id }));
const actions = el('div', 'actions', jump, edit);
const card = el('section', 'card', el('header', '', picture, heading), text, lines, actions);

// Returns the card, or null where the run needs none.
export function showCard(context) {
  c = context;
  const { run, isLatest, pipeline } = c;
  const tone = run?.outcome && ending(run.outcome).tone, isBad = !['succeeded', 'stopped'].includes(tone);
  if (!tone || isLatest && (pipeline.state !== 'stopped' || !isBad)) return null;
  const [title, sentence] = verdict(run, c.progress, c.now);
  set(heading, title);
  set(text, sentence);
  tint(card, tone);
  useIcon(picture, tone);
  // What ended a run from outside is not in its log.
  const said = tone === 'failed' ? lastErrorLines(6).map(visible).join('\n') : '';
  setText(lines, said);
  lines.hidden = !said;
  edit.hidden = !c.connected || !c.mayAct || !pipeline.allowed.includes('start');
  jump.hidden = !isBad || !errorRows.length;
  actions.hidden = edit.hidden && jump.hidden;
  return card;
}
