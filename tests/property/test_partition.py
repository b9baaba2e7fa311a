"""Which partition a key has: as Kafka's default partitioner says."""

from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from agentrun_stream.broker.kafka import partition_of


@given(st.binary(max_size=200), st.integers(1, 1000))
def test_a_key_is_where_every_other_client_puts_it(key: bytes, partitions: int) -> None:
    """Ours is faster than the client's own, and nothing else."""
    assert partition_of(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions
