"""What stands in micro-batches, a sequence at a time."""

from collections.abc import Iterator
from itertools import islice

from pipeline.batches.assembly import Assembly
from pipeline.batches.loader import TrainLoader
from pipeline.batches.microbatch import IGNORED, MicroBatch, unpack


def each_sequence(batch: MicroBatch) -> Iterator[tuple[tuple[int, int], tuple[bytes, ...]]]:
    """((epoch, sample), what it looks like) of each sequence that counts."""
    counts = batch.masked_labels_M != IGNORED
    for index in range(batch.sequences):
        here = slice(*batch.sequence_starts_B1[index : index + 2])
        inside = counts & (batch.masked_positions_M >= here.start) & (batch.masked_positions_M < here.stop)
        identity = int(batch.epochs_B[index]), int(batch.samples_B[index])
        yield (
            identity,
            (
                batch.tokens_T[here].tobytes(),
                batch.segments_T[here].tobytes(),
                batch.positions_T[here].tobytes(),
                (batch.masked_positions_M[inside] - here.start).tobytes(),
                batch.masked_labels_M[inside].tobytes(),
                batch.next_labels_B[index].tobytes(),
            ),
        )


def by_all_readers(made: TrainLoader, step: int) -> list[MicroBatch]:
    """What a step's workers would make, each made here."""
    assembly: Assembly = made._assembly
    found = []
    for reader in range(made.share.readers):
        for chunk in islice(assembly.chunks(reader), assembly.chunks_a_step):
            assert len(chunk) <= assembly.largest_chunk
            found += unpack(chunk)
    assert {batch.step for batch in found} == {step}
    return sorted(found, key=lambda batch: batch.micro_step)
