from benchmarks.crowd import Account
from benchmarks.failures import Event, table


def test_an_account_tells_what_failed_and_what_failed_again() -> None:
    account = Account()
    for client, outcome, seconds in (
        (1, "right", 0.5),
        (1, "failed", 9.0),
        (2, "failed", 9.0),
        (1, "refused", 0.0),  # nothing was asked
        (1, "failed", 9.0),
        (1, "right", 0.7),
        (2, "right", 0.1),
        (1, "failed", 9.0),
    ):
        account.note(client, outcome, seconds, f"client {client}")  # type: ignore[arg-type]

    assert {"right": 3, "failed": 4, "refused": 1} == account.outcomes
    assert 1 == account.again
    assert 0.7 == account.longest_s
    assert ["client 1", "client 2", "client 1", "client 1"] == account.reasons


def test_an_account_begins_anew() -> None:
    account = Account()
    account.note(1, "failed")
    account.begin()
    account.note(1, "failed")
    assert (0, {"failed": 1}) == (account.again, account.outcomes)


def test_runs_are_added_up_and_of_times_the_median_counts() -> None:
    def event(recovered_s: float, longest_s: float) -> Event:
        return Event("worker killed", recovered_s, 1000, 3, 1, 2, 0, longest_s, ())

    *_, line = table([[event(9.0, 0.5)], [event(20.0, 1.5)], [event(11.0, 0.6)]])
    assert "| worker killed | 3,000 | 9 | 3 | 6 | 0 | 1.5 s | 11 s |" == line
