"""Flow control of streamed answers: how far a replica may be ahead of the client.

The replica sends while less than :data:`WINDOW` is on its way; the gateway says what the client has taken.  So no node
on the way ever holds more than a window of one answer, however slow its client is.  A piece counts its bytes plus
:data:`PIECE_COST`, because a million pieces of one byte are no small thing to hold either.
"""

from __future__ import annotations

__all__ = ["ACKNOWLEDGE", "PIECE", "PIECE_COST", "WINDOW"]

WINDOW = 256 * 1024
"""What may be on its way of one answer."""
PIECE = 64 * 1024
"""Bytes; larger items are cut (from this size on, a body travels as a frame of its own)."""
PIECE_COST = 256
ACKNOWLEDGE = WINDOW // 4
"""The gateway speaks up whenever the client has taken this much more."""
