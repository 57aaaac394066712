# nfstudy on a processor. Runs, reports and data are kept in volumes of /project:
#   docker build -t nfstudy .
#   docker run --rm -v "$PWD/mlruns:/project/mlruns" -v "$PWD/reports:/project/reports" nfstudy run quickstart
FROM python:3.11-slim

RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/nfstudy
# torch without CUDA, and before the code, so that a change of the code does not install it again.
COPY constraints.txt ./
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu \
        --extra-index-url https://pypi.org/simple -c constraints.txt torch==2.13.0
COPY pyproject.toml README.md LICENSE ./
COPY studies ./studies
COPY nfstudy ./nfstudy
RUN pip install --no-cache-dir -c constraints.txt . \
    && useradd --create-home --uid 1000 nfstudy \
    && install -d -o nfstudy -g nfstudy /project /project/mlruns /project/reports /project/data

USER nfstudy
WORKDIR /project
# The loops are compiled once a container; kept outside the package, which its user cannot write.
ENV NUMBA_CACHE_DIR=/home/nfstudy/.cache/numba
VOLUME ["/project/mlruns", "/project/reports", "/project/data"]
ENTRYPOINT ["nfstudy"]
CMD ["--help"]
