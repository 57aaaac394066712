"""Plug-ins of data: a source of counts of its own, its likelihood, and another likelihood of bits, as a file."""

COUNTS = '''\
"""Counts, a Poisson likelihood for them, and one of bits that all have the same probability."""

from typing import Annotated

from pydantic import Field

from nfstudy import Count, DataSource, Likelihood, Record, Splits, make_dataset


class CountsSettings(Record):
    """How many there are, and how large."""

    rate: Annotated[float, Field(gt=0)] = 3.0
    counts: Count = 90


def sizes(data):
    return data.counts - 40, 20, 20


def load():
    import numpy as np

    def counts(data, folders, download=True):
        drawn = np.random.default_rng(1).poisson(data.rate, (data.counts, 4)).astype(np.float32)
        splits = Splits(*np.split(drawn, [data.counts - 40, data.counts - 20]))
        return make_dataset("counts", (2, 2), 0, splits, "drawn")

    return counts


def poisson():
    import torch
    from nfstudy.inference.likelihoods.base import Likelihood

    class Poisson(Likelihood):
        def __init__(self, pixels, features, model):
            super().__init__(pixels, features, model)
            self.log_rate = torch.nn.Linear(features, pixels)

        def initialise(self, generator):
            torch.nn.init.zeros_(self.log_rate.weight)
            torch.nn.init.zeros_(self.log_rate.bias)

        def forward(self, x, features):
            log_rate = self.log_rate(features)
            return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).sum(-1)

        def picture(self, features):
            return self.log_rate(features).exp() / 10

    return Poisson


def coins():
    import torch
    from nfstudy.inference.likelihoods.base import Likelihood

    class Coins(Likelihood):
        def __init__(self, pixels, features, model):
            super().__init__(pixels, features, model)
            self.tilt, self.scale = torch.nn.Parameter(torch.zeros(pixels)), model.coin_scale

        def initialise(self, generator):
            torch.nn.init.zeros_(self.tilt)

        def forward(self, x, features):
            bits = torch.nn.functional.logsigmoid((2 * x - 1) * self.scale * self.tilt).sum(-1)
            return bits + 0 * features.sum(-1)

        def picture(self, features):
            return (self.scale * self.tilt).sigmoid().expand(*features.shape[:-1], -1)

    return Coins


class CoinSettings(Record):
    """Of the coins."""

    coin_scale: float = 1.0


COUNTS = DataSource(name="counts", values="counts", splits=sizes, loader=load, settings=CountsSettings)
POISSON = Likelihood(name="poisson", values=("counts",), implementation=poisson, per="count")
COINS = Likelihood(name="coins", values=("bits",), implementation=coins, settings=CoinSettings)
'''
