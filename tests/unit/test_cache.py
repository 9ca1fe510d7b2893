"""Finished values within bounds."""

from langflow_sluice.cache import BoundedCache


def test_those_used_longest_ago_go_first():
    cache = BoundedCache(max_entries=3, max_bytes=100)
    for key in "abc":
        cache.keep("space", key, key, 1, now=0.0)
    cache.find("space", "a", since=0.0)
    cache.keep("space", "d", "d", 1, now=0.0)
    assert [cache.find("space", key, since=0.0) for key in "abcd"] == ["a", None, "c", "d"]


def test_a_value_in_the_place_of_an_older_one_counts_once():
    cache = BoundedCache(max_entries=3, max_bytes=100)
    cache.keep("space", "a", "old", 60, now=0.0)
    cache.keep("space", "a", "new", 50, now=1.0)
    assert (len(cache), cache.size, cache.evicted) == (1, 50, 0)
    assert cache.find("space", "a", since=1.0) == "new"


def test_a_value_beyond_the_bound_is_not_kept_and_pushes_nothing_out():
    cache = BoundedCache(max_entries=3, max_bytes=100)
    cache.keep("space", "a", "a", 100, now=0.0)
    cache.keep("space", "b", "b", 101, now=0.0)
    assert (len(cache), cache.size, cache.evicted) == (1, 100, 0)


def test_spare_values_push_out_only_their_own_until_they_are_found():
    cache = BoundedCache(max_entries=4, max_bytes=100)
    for key in "ab":
        cache.keep("space", key, key, 1, now=0.0)
    for number in range(10):
        cache.keep("space", number, "bulk", 1, now=0.0, spare=True)
    assert [cache.find("space", key, since=0.0) for key in "ab"] == ["a", "b"]
    kept = [number for number in range(10) if cache.find("space", number, since=0.0)]
    assert len(kept) == 2
    cache.keep("space", "more", "bulk", 1, now=0.0, spare=True)
    assert cache.find("space", "a", since=0.0) is None  # used longest ago, now that the bulk was asked for


def test_dropping_a_namespace_gives_its_bytes_back():
    cache = BoundedCache(max_entries=9, max_bytes=100)
    for key in "ab":
        cache.keep("space", key, key, 10, now=0.0)
    cache.keep("other", "a", "a", 1, now=0.0)
    cache.drop("space")
    cache.drop("unknown")
    assert (len(cache), cache.size) == (1, 1)
    assert cache._spaces == {"other": {"a"}}
