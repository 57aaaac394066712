"""Plans: what they ask for is handed out once, in order, and what came of it reaches them."""

from nfstudy.runner.scheduler import Scheduler, Task
from nfstudy.runs.result import TrialResult
from nfstudy.study.reader import parse_study

STUDY = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ngrid: {flow.family: [planar], flow.length: [1, 2]}\n"
    "repetitions: 2\nexhibits: [summary]\n",
    "s.yaml",
)
FIRST, SECOND = (STUDY.under(cell.budget).repetitions_of(cell) for cell in STUDY.under("default").cells)


def told(value):
    return TrialResult("finished", value=value)


def drain(scheduler, value=lambda request: 0.0):
    handed = []
    while not scheduler.done:
        current = scheduler.next()
        handed.append(current.trial.label)
        scheduler.tell(current, told(value(current)))
    return handed


def repetitions(trials, heard):
    heard.append((yield [Task(trial) for trial in trials]))
    return len(heard)


def test_first_repetitions_of_all_cells_come_first():
    def plan():
        yield [repetitions(FIRST, []), repetitions(SECOND, [])]

    assert drain(Scheduler(plan(), {})) == [
        "planar K=1 D=40 #1",
        "planar K=2 D=40 #1",
        "planar K=1 D=40 #2",
        "planar K=2 D=40 #2",
    ]


def test_answers_come_in_the_order_of_the_requests_whatever_ends_first():
    heard = []
    scheduler = Scheduler(repetitions(FIRST, heard), {})
    one, two = scheduler.next(), scheduler.next()
    scheduler.tell(two, told(2.0))
    assert heard == []
    scheduler.tell(one, told(1.0))
    assert heard == [[told(1.0), told(2.0)]]


def test_what_is_known_is_not_handed_out():
    heard = []
    scheduler = Scheduler(repetitions(FIRST, heard), {FIRST[0].identity: told(7.0)})
    assert drain(scheduler) == ["planar K=1 D=40 #2"]
    assert heard == [[told(7.0), told(0.0)]]


def test_a_long_search_all_of_whose_results_are_known_goes_on():
    heard = []

    def generation():
        heard.append((yield [Task(FIRST[0])]))
        return len(heard)

    def search():
        for number in range(2000):
            assert (yield [generation()]) == [number + 1]
        yield [Task(FIRST[1])]

    assert drain(Scheduler(search(), {FIRST[0].identity: told(7.0)})) == ["planar K=1 D=40 #2"]
    assert heard == [[told(7.0)]] * 2000


def test_what_is_known_goes_on_as_far_as_it_can_before_the_next_begins():
    began = []

    def cell(name, trial):
        for number in range(2):
            began.append(f"{name} {number}")
            yield [Task(trial)]

    def plan():
        yield [cell("one", FIRST[0]), cell("two", FIRST[1]), cell("three", FIRST[0])]

    Scheduler(plan(), {FIRST[0].identity: told(7.0)})
    assert began == ["one 0", "one 1", "two 0", "three 0", "three 1"]


def test_two_plans_that_want_one_trial_share_it():
    first, second = [], []

    def plan():
        yield [repetitions(FIRST[:1], first), repetitions(FIRST[:1], second)]

    assert drain(Scheduler(plan(), {}), lambda _: 3.0) == ["planar K=1 D=40 #1"]
    assert first == second == [[told(3.0)]]


def test_what_is_put_back_is_handed_out_again():
    scheduler = Scheduler(repetitions(FIRST, []), {})
    taken = scheduler.next()
    scheduler.put_back(taken)
    assert drain(scheduler) == ["planar K=1 D=40 #1", "planar K=1 D=40 #2"]


def test_a_plan_that_waits_for_running_trials_hands_out_nothing():
    def plan():
        yield [Task(FIRST[0])]
        yield [Task(FIRST[1])]

    scheduler = Scheduler(plan(), {})
    taken = scheduler.next()
    assert scheduler.next() is None
    assert not scheduler.done
    scheduler.tell(taken, told(0.0))
    assert scheduler.next().trial == FIRST[1]


def test_a_plan_without_requests_ends():
    def plan():
        yield []
        yield []

    assert Scheduler(plan(), {}).done
