"""Hands the engine's events to those who subscribed to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from spliceway._engine import Event

#: events that a subscriber may leave waiting
EVENTS_PER_SUBSCRIBER = 256


class EventFan:
    """A subscriber that does not keep up loses events, which are counted, and never holds others up."""

    def __init__(self) -> None:
        #: events that some subscriber did not get
        self.dropped = 0
        self._subscribers: list[tuple[str, trio.MemorySendChannel[Event]]] = []

    @property
    def subscribers(self) -> int:
        """How many are handed events, some of them gone perhaps."""
        return len(self._subscribers)

    def subscribe(self, pool: str) -> trio.MemoryReceiveChannel[Event]:
        """The events about ``pool`` (all events when ""), until the returned channel is closed."""
        send, receive = trio.open_memory_channel["Event"](EVENTS_PER_SUBSCRIBER)
        # Those that were closed meanwhile are forgotten here, because no event may ever come for them.
        live = [each for each in self._subscribers if each[1].statistics().open_receive_channels]
        self._subscribers = [*live, (pool, send)]
        return receive

    def publish(self, event: Event) -> None:
        """Hand one event to all whom it concerns."""
        for subscriber in tuple(self._subscribers):
            pool, channel = subscriber
            if pool not in ("", event.pool):
                continue
            try:
                channel.send_nowait(event)
            except trio.WouldBlock:
                self.dropped += 1
            except trio.BrokenResourceError:
                self._subscribers.remove(subscriber)

    def close(self) -> None:
        """No more events: every subscriber's loop ends."""
        for _, channel in self._subscribers:
            channel.close()
        self._subscribers.clear()
