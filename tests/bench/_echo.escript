#!/usr/bin/env escript
%% escript _echo.escript tell|ask MILLISECONDS: prints how many a second one Erlang process took or answered.
-mode(compile).

main([What, Milliseconds]) ->
    Pid = spawn(fun serve/0),
    Batch = case What of
        "tell" -> fun() -> tell(Pid, 1000), ask(Pid), 1000 end;
        "ask" -> fun() -> asks(Pid, 100), 100 end
    end,
    Batch(),
    Started = erlang:monotonic_time(microsecond),
    {Count, Took} = repeat(Batch, Started, list_to_integer(Milliseconds) * 1000, 0),
    io:format("~.1f~n", [Count * 1.0e6 / Took]).

repeat(Batch, Started, Wanted, Count) ->
    case erlang:monotonic_time(microsecond) - Started of
        Took when Took >= Wanted -> {Count, Took};
        _ -> repeat(Batch, Started, Wanted, Count + Batch())
    end.

serve() ->
    receive
        {ask, From, Ref, Number} -> From ! {Ref, Number}, serve();
        {note, _Number} -> serve()
    end.

tell(_Pid, 0) -> ok;
tell(Pid, N) -> Pid ! {note, N}, tell(Pid, N - 1).

asks(_Pid, 0) -> ok;
asks(Pid, N) -> ask(Pid), asks(Pid, N - 1).

ask(Pid) ->
    Ref = make_ref(),
    Pid ! {ask, self(), Ref, 1},
    receive {Ref, 1} -> ok after 1000 -> exit(late) end.
