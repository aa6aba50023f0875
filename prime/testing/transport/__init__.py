"""The conformance suite of transports: what `prime.transport.contract` promises, as cases that anyone can run.

::

    @pytest.mark.parametrize("case", (*CASES, *WIRE_CASES), ids=lambda case: case.__name__)
    async def test_conformance(case, kit):
        await case(kit)

A case is an async function of a `TransportKit`, raises `AssertionError` with the broken promise, and ends within its
own deadline whatever the transport does. All run under Trio over whatever the transport really uses. `WIRE_CASES` are
for transports over sockets, and interfere with the wire between the two sides: the kit says how. The `LONG_…` ones take
minutes each.
"""

from prime.testing.transport import cancelling, cuts, dialling, ending, leaks, strangers, streaming
from prime.testing.transport.detours import Detour, detour_tcp, detour_unix, knock_tcp, knock_unix
from prime.testing.transport.kit import (
    Case,
    Meeting,
    TransportKit,
    WireKit,
    meet,
    met,
    opened,
    pattern,
    receive_all,
    receive_exactly,
)

CASES: tuple[Case, ...] = (
    dialling.proves_identity_on_both_sides,
    dialling.says_where_the_other_side_is,
    dialling.refuses_a_wrong_peer,
    dialling.refuses_contradictions,
    dialling.dials_without_knowing_the_peer,
    dialling.says_that_nobody_answers,
    dialling.dials_twenty_at_once,
    dialling.dials_both_ways_at_once,
    dialling.survives_a_cancelled_dial,
    dialling.bounds_its_backlog,
    streaming.echoes,
    streaming.carries_large_data_both_ways_at_once,
    streaming.takes_any_buffer,
    streaming.never_receives_more_than_asked,
    streaming.lets_one_task_receive,
    streaming.slows_a_sender_whose_peer_does_not_read,
    streaming.sends_on_when_a_slow_reader_reads_again,
    streaming.blocks_no_other_channel,
    streaming.reads_a_byte_at_a_time,
    streaming.carries_many_channels_at_once,
    cancelling.loses_nothing_to_a_cancelled_receive,
    cancelling.never_tears_a_cancelled_send,
    cancelling.dials_anew_wherever_a_dial_was_cancelled,
    cancelling.loses_no_channel_to_a_cancelled_accept,
    cancelling.loses_nothing_wherever_a_receive_was_cancelled,
    cancelling.loses_nothing_wherever_a_receive_into_a_room_was_cancelled,
    cancelling.never_tears_wherever_a_send_was_cancelled,
    cancelling.ends_wherever_a_close_was_cancelled,
    ending.ends_after_all_bytes,
    ending.keeps_the_other_direction_open,
    ending.closes,
    ending.wakes_its_own_reader,
    ending.breaks_a_sender_whose_peer_is_gone,
    ending.closes_in_bounded_time,
    ending.closes_with_its_endpoint,
    ending.takes_an_address_once,
    ending.lets_errors_through,
    leaks.leaves_nothing_behind,
    leaks.leaves_no_descriptor_of_an_endpoint,
)
"""Every promise, one case each."""

WIRE_CASES: tuple[Case, ...] = (
    strangers.survives_strangers,
    strangers.survives_handshakes_that_stop,
    strangers.believes_no_handshake_played_back,
    strangers.shows_who_says_nothing_the_door,
    strangers.keeps_out_whom_its_admission_denies,
    cuts.carries_bytes_that_come_one_by_one,
    cuts.waits_out_a_wire_that_stands_still,
    cuts.gives_up_a_dial_that_stands_still,
    cuts.closes_over_a_wire_that_stands_still,
    cuts.shows_a_cut_handshake_as_unreachable,
    cuts.takes_no_cut_for_more_than_came,
    cuts.cuts_one_connection_alone,
    cuts.hides_what_it_carries,
)
"""The promises to those whose wire fails, or is in strange hands; the kit needs a wire."""

LONG_CASES: tuple[Case, ...] = (
    streaming.waits_a_minute_for_its_reader,
    cancelling.takes_a_cancel_at_each_await,
    leaks.leaves_nothing_behind_of_ten_thousand,
)
"""Promises that take minutes to look at."""

LONG_WIRE_CASES: tuple[Case, ...] = (cuts.takes_no_cut_at_any_byte_for_more_than_came,)
"""The same, for a kit with a wire."""

__all__ = [
    "CASES",
    "LONG_CASES",
    "LONG_WIRE_CASES",
    "WIRE_CASES",
    "Case",
    "Detour",
    "Meeting",
    "TransportKit",
    "WireKit",
    "detour_tcp",
    "detour_unix",
    "knock_tcp",
    "knock_unix",
    "meet",
    "met",
    "opened",
    "pattern",
    "receive_all",
    "receive_exactly",
]
