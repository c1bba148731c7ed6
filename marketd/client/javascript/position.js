// How far a client is in one feed, and what a message changes about it: docs/protocol.md, section 8. Pure.

/**
 * Take the range of a message.
 *
 * @param position what was had: `{epoch, cursor}`, or undefined for a feed that joined later
 * @param message with `epoch`, `cursor_first`, `cursor_last`, and `reason` if it is a gap
 * @returns `{gap, take, after}`: a gap of reason `epoch` or `sequence` to be told first, or undefined; whether the
 *   message has anything new; and the cursor up to which its rows were had before
 */
export function advance(position, message) {
  const nothing = { gap: undefined, take: true, after: 0 };
  if (position === undefined) return nothing;
  if (message.epoch !== position.epoch) {
    const told = message.reason !== undefined;
    return told ? nothing : { ...nothing, gap: gapOf(message, "epoch", 1, message.cursor_first - 1, -1) };
  }
  if (message.reason === "epoch") return nothing;
  if (message.cursor_last <= position.cursor) return { gap: undefined, take: false, after: position.cursor };
  const next = position.cursor + 1;
  if (message.cursor_first > next) {
    const lost = message.cursor_first - next;
    return { ...nothing, gap: gapOf(message, "sequence", next, message.cursor_first - 1, lost) };
  }
  return { gap: undefined, take: true, after: position.cursor };
}

function gapOf(message, reason, first, last, lost) {
  return { feed: message.feed, epoch: message.epoch, cursor_first: first, cursor_last: last, lost, reason, from_ns: 0, to_ns: 0 };
}
