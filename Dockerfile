# The portal's own processes in one image; compose.yaml starts one container for each, as `myphr up` does.
FROM debian:12-slim

RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv tini redis-server qemu-system-x86 qemu-utils \
    mmdebstrap mtools syslinux syslinux-common dosfstools e2fsprogs squashfs-tools zstd busybox-static cpio fdisk \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --user-group --home-dir /nonexistent --shell /usr/sbin/nologin myphr-vm \
 && useradd --system --user-group --create-home --home-dir /srv/myphr myphr

WORKDIR /opt/myphr
COPY requirements.txt ./
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY app.py ./
COPY myphr ./myphr
COPY jobs ./jobs
COPY templates ./templates
COPY static ./static

ENV MYPHR_HOME=/srv/myphr PATH=/opt/myphr/.venv/bin:$PATH PYTHONUNBUFFERED=1
USER myphr
EXPOSE 8000 8001
ENTRYPOINT ["tini", "--", "python", "-m"]
CMD ["myphr", "up"]
