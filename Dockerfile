# The two commands of the README in a container:
#   docker build -t tl_lightning .
#   docker run --rm --shm-size=2g tl_lightning              # make demo
#   docker run --rm --shm-size=2g tl_lightning make test
# The compiler is for random crops of cached images, which it makes twice as fast.
# Loader workers pass batches through /dev/shm, for which 64 MB, Docker's default, are too few.
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY . .
RUN make install EXTRAS=dev
ENV PATH=/app/.venv/bin:$PATH TL_CACHE=/tmp/tl_cache

CMD ["make", "demo"]
