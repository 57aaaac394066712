"""`fit`: the training of a problem, from its start or a checkpoint to the weights that it ends with."""

from __future__ import annotations

from contextlib import nullcontext

from nfstudy.core.cuda.capture import own_stream
from nfstudy.inference.problems.base import Problem
from nfstudy.inference.training.checkpoints import Checkpoints
from nfstudy.inference.training.loop import DivergenceError, Loop
from nfstudy.inference.training.replayed import Replayed
from nfstudy.runs.result import OnEpoch, TrialResult
from nfstudy.study.settings import Settings


def fit(
    problem: Problem,
    settings: Settings,
    on_epoch: OnEpoch,
    checkpoints: Checkpoints | None = None,
    gradients: bool = False,
) -> TrialResult:
    """Train a problem's parameters in place by Alg. 1, with the objective and the estimator that the settings name.

    Epochs are as long as the problem says; the last may be cut so that there are `train.updates` in all.

    Arguments:
        problem: what is trained, which draws its own minibatches and noise.
        settings: objective and train.
        on_epoch: told of every epoch, first of those that a checkpoint holds; False ends the training there.
        checkpoints: where it goes on from and saves itself; the numbers are those of a training that never stopped,
            bit for bit. None: neither.
        gradients: whether the variance of every estimator's gradient is measured along the way.

    Returns:
        How it ended. A finished problem holds the parameters that `train.averaging` and `train.keep` ask for; after a
        divergence, the last finite ones or those that failed validation.

    Raises:
        Stopped: the worker has been asked to stop; a checkpoint has been written.
    """
    with own_stream(problem.device), checkpoints.holding() if checkpoints else nullcontext():
        loop = Loop(problem, settings, checkpoints, gradients)
        loop.replayed = replayed(loop)
        if checkpoints:
            checkpoints.load(loop.restore)
        try:
            with loop.gradient_norm.found_early():
                for record in loop.epochs():
                    if not on_epoch(record):
                        where = f"at epoch {record.epoch} at F {record.free_energy:.2f}"
                        return TrialResult("pruned", record.update, where, loop.seconds)
        except DivergenceError as error:
            return TrialResult("diverged", loop.update, str(error), loop.seconds)
        finally:
            if loop.replayed:
                loop.replayed.release()
        if checkpoints:
            checkpoints.save(loop.state())  # The evaluation that follows may take long.
        loop.load_final_weights()
    return TrialResult("finished", loop.update, "", loop.seconds, loop.costs())


def replayed(loop: Loop) -> Replayed | None:
    """Return what does a loop's updates in its place; None where each is done from Python.

    They are captured on a device alone, and not of an estimator that dreams: it draws on the processor.
    """
    objective = loop.settings.objective
    dreams = objective.declaration.does_sleep(objective)
    return Replayed(loop) if loop.problem.device.startswith("cuda") and loop.parameters and not dreams else None
