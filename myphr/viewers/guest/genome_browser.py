#!/usr/bin/python3 -B
"""Starts IGV on genome files of this folder without any network: the genome it needs is a list of the sequences and
lengths that the files themselves name, with unknown letters, indexes that are missing are made beside links in this
machine's memory, and it goes to where the first file has something. Runs in the guest as the viewer user.
"""

import itertools
import os
import re
import subprocess
import sys
import tempfile

import genome_records as records

# Classes that Debian packed are not verified one by one: under software emulation that is much of a start.
JAVA = "-Xmx900m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
JAVA += " -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
INDEXES = (".bai", ".csi", ".tbi", ".crai", ".fai", ".idx")
PREFERENCES = {
    "IGV.Bounds": "0,0,1280,800",
    "SHOW_SEQUENCE_TRANSLATION": "false",
    "DEFAULT_GENOME_KEY": "",
    "SAM.SHOW_MISMATCHES": "true",
    "SHOW_GENOME_SERVER_WARNING": "false",
    "AUTO_UPDATE_GENOMES": "false",
    "SKIP_VERSION": "99",
}


def prepared(path: str, folder: str) -> str:
    """The path to give IGV: the file, or a link to it with an index beside it."""
    low = path.casefold()
    command = None
    if low.endswith(".bam"):
        command, there = ["samtools", "index"], (f"{path}.bai", f"{path[:-4]}.bai", f"{path}.csi")
    elif low.endswith(".vcf.gz"):
        command, there = ["tabix", "-p", "vcf"], (f"{path}.tbi", f"{path}.csi")
    if command is None or any(map(os.path.exists, there)):
        return path
    link = os.path.join(folder, os.path.basename(path))
    os.symlink(path, link)
    done = subprocess.run([*command, link], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return link if done.returncode == 0 else path


def write_genome(path: str, sizes: list[tuple[str, int]]) -> None:
    """A FASTA file whose letters are all unknown (zero bytes), with its index. They are holes and take no memory: three
    gigabytes of a human genome fit. Without any letters IGV shows no reads, it only complains."""
    at = 0
    with open(path, "wb") as out, open(f"{path}.fai", "w", encoding="utf-8") as index:
        for name, length in sizes:
            head = f">{name}\n".encode()
            out.seek(at)
            out.write(head)
            index.write(f"{name}\t{length}\t{at + len(head)}\t{length}\t{length + 1}\n")
            at += len(head) + length
            out.seek(at)
            out.write(b"\n")
            at += 1


def first_place(path: str) -> str:
    """Where the file has something first, with what is around it; empty when it does not say."""
    low = path.casefold()
    if low.endswith((".bam", ".cram", ".sam")):
        run = subprocess.Popen(["samtools", "view", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert run.stdout is not None
        places = []
        for line in itertools.islice(run.stdout, 400):
            words = line.decode("latin-1").split("\t", 5)
            if len(words) > 4 and words[2] != "*" and words[3].isdigit():
                places.append((words[2], int(words[3])))
        run.kill()
        run.wait()
        same = [at for name, at in places if name == places[0][0]] if places else []
        return f"{places[0][0]}:{max(1, min(same) - 100)}-{min(max(same) + 200, min(same) + 5000)}" if same else ""
    try:
        if low.endswith((".vcf", ".vcf.gz")):
            row = next((r for r in records.read(path).rows() if r.changed), None)
            return f"{row.chromosome}:{max(1, row.position - 1000)}-{row.position + 1000}" if row else ""
        columns = {"bed": (0, 1, 2), "gff": (0, 3, 4), "gff3": (0, 3, 4), "gtf": (0, 3, 4)}
        at = columns.get(low.removesuffix(".gz").rsplit(".", 1)[-1])
        for line in records.lines_of(path, "text") if at else ():
            words = line.split("\t")
            if not line.startswith(("#", "track", "browser")) and len(words) > at[2] and words[at[1]].isdigit():
                low_end, high_end = int(words[at[1]]), int(words[at[2]])
                return f"{words[0]}:{max(1, low_end - 1000)}-{high_end + 1000}"
    except (records.CannotShow, ValueError, OSError):
        pass
    return ""


def main(files: list[str]) -> None:
    files = [file for file in files if not file.casefold().endswith(INDEXES)][:20]
    folder = tempfile.mkdtemp(prefix="igv-")
    home = os.path.join(folder, "igv")
    os.makedirs(home)
    sizes: dict[str, int] = {}
    for file in files:
        for name, length in records.contigs(file).items():
            sizes[name] = max(sizes.get(name, 0), length)
    genome = os.path.join(folder, "sequences.fa")
    write_genome(genome, sorted(sizes.items(), key=lambda one: natural(one[0])))
    with open(os.path.join(home, "prefs.properties"), "w", encoding="ascii") as out:
        genomes = os.path.join(folder, "genomes.tsv")  # of servers: none
        out.write("".join(f"{key}={value}\n" for key, value in PREFERENCES.items()))
        out.write(f"IGV.genome.sequence.dir={genomes}\nDEFINE_GENOME_INPUT_DIRECTORY_KEY={folder}\n")
    with open(genomes, "w", encoding="ascii") as out:
        out.write("<Server-Side Genome List>\n")
    words = ["igv", "--igvDirectory", home, "-g", genome, ",".join(prepared(file, folder) for file in files)]
    place = next((found for found in map(first_place, files) if found), "")
    environment = {**os.environ, "_JAVA_OPTIONS": f"{JAVA} -Duser.home={folder}"}
    os.execvpe("igv", [*words, *([place] if place else [])], environment)  # noqa: S606 - no shell in between


def natural(name: str) -> list[tuple[int, str]]:
    """chr2 before chr10."""
    return [(int(part), "") if part.isdigit() else (10**9, part) for part in re.split(r"(\d+)", name) if part]


if __name__ == "__main__":
    main(sys.argv[1:])
