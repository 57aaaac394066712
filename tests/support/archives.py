"""Archives taken apart, to be put together otherwise."""

import tarfile


def members_of(path):
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]
