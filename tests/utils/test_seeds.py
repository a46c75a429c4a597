from sharedmlp.utils.seeds import derive_seed, generator_for_name


def test_derived_seeds_differ_by_order_and_by_trailing_zeros():
    seeds = {derive_seed(*parts) for parts in [(), (0,), (0, 0), (1, 2), (2, 1), (1, 2, 0), (3,)]}
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_name_has_its_own_numbers_and_they_stay():
    draws = {
        key: generator_for_name(*key).integers(2**62)
        for key in [(0, "a"), (0, "b"), (1, "a"), (-1, "a")]
    }
    assert len(set(draws.values())) == 4
    # Caches and generated meshes depend on it: a change would need a new version of both.
    rng = generator_for_name(0, "chair/train/chair_0001.off")
    assert rng.integers(1000, size=4).tolist() == [
        826,
        967,
        438,
        958,
    ]
