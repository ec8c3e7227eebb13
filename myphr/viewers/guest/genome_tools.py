#!/usr/bin/python3 -B
"""A terminal with samtools, bcftools and tabix in the folder of the files, after a short look at each. Results belong
into /data/results, from where they come into the record. Runs in the guest as the viewer user.
"""

import os
import shlex
import sys

FILES_MAX = 6
LOOKS = {
    (".vcf", ".vcf.gz", ".bcf"): "bcftools view -H {} 2>/dev/null | head -n 6 | cut -c 1-140",
    (".bam", ".cram", ".sam"): "samtools view -H {} | head -n 4 | cut -c 1-140; samtools flagstat {} | head -n 7",
    (".fa", ".fasta", ".fastq", ".fq", ".gff", ".gtf", ".bed", ".txt"): "head -n 6 {} | cut -c 1-140",
    (".gz",): "gzip -dc {} | head -n 6 | cut -c 1-140",
}


def main(files: list[str]) -> None:
    lines = ["cd /data"]
    lines += ["echo 'samtools, bcftools, tabix and less are here. Write results into /data/results.'", "echo"]
    for file in files[:FILES_MAX]:
        look = next((text for endings, text in LOOKS.items() if file.casefold().endswith(endings)), None)
        lines.append(f"printf '\\033[1m%s\\033[0m\\n' {shlex.quote(os.path.basename(file))}")
        if look:
            lines.append(look.replace("{}", shlex.quote(file)))
        lines.append("echo")
    lines.append("exec sh -i")
    words = ["xterm", "-fa", "DejaVu Sans Mono", "-fs", "12", "-bg", "#0d1014", "-fg", "#f2f5f8", "-geometry", "150x46"]
    os.execvp("xterm", [*words, "-e", "sh", "-c", "\n".join(lines)])  # noqa: S606 - names are quoted


if __name__ == "__main__":
    main(sys.argv[1:])
