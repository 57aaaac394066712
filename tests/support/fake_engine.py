"""Workers in this very process, that say what a test has them say."""

from collections import deque

from nfstudy.runner.engine import Engine, Worker
from nfstudy.runner.worker import Died, Ready, Run, worker_sources


def ready():
    """Return what a worker of this code says when it has started."""
    return Ready("cpu", sources=worker_sources())


class FakeWorker(Worker):
    """Answers each trial with the messages that `script` returns for it; says nothing more where it returns None."""

    def __init__(self, number, script):
        super().__init__(number)
        self.script, self.said, self.killed = script, deque([ready()]), False

    def send(self, order):
        if isinstance(order, Run):
            self.said.extend(self.script(order.trial) or ())

    def answer(self, should_continue):
        pass

    def receive(self):
        return self.said.popleft()

    def stop(self):
        self.said = deque([Died("stopped", clean_exit=True)])

    def kill(self):
        self.killed, self.said = True, deque()


class FakeEngine(Engine):
    def __init__(self, size, script):
        self.script, self.started = script, []
        super().__init__(size, 1)

    def close(self):
        pass

    def _start(self, number):
        self.started.append(worker := FakeWorker(number, self.script))
        return worker

    def _wait(self, timeout):
        return [worker for worker in self.workers if worker.said]
