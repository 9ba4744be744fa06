"""Tags: no two seeds share one, and a tag stays with its seed whatever comes or goes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altsync.catalogue.parts import KEY_PATTERN as TAG
from altsync.projection import digest
from altsync.seed.keys import (
    SLUG_LENGTH,
    KeyRequest,
    Refusal,
    assign,
    candidates,
    request_key,
    slug,
)


def request(seed_id: str, name: str = "Premier League", place: str | None = None) -> KeyRequest:
    """A seed that leaves its tag to its name and place."""
    return request_key(seed_id, None, name, place)


def own(seed_id: str, tag: str) -> KeyRequest:
    """A seed that gives its tag itself."""
    return request_key(seed_id, tag, "Some League", None)


# --- slugs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Premier League", "premier_league"),
        ("  NBA -- G League!  ", "nba_g_league"),
        ("Fußball-Bundesliga", "fussball_bundesliga"),
        ("Þór Ísland", "thor_island"),
        ("Ekstraklasa Łódź", "ekstraklasa_lodz"),
        ("Série A (Brasil)", "serie_a_brasil"),
        ("Süper Lig 2026/27", "super_lig_2026_27"),
        ("Çempionlar Liqası", "cempionlar_liqasi"),
        ("ŒUVRE Æon", "oeuvre_aeon"),
        ("ﬁnals Ⅷ", "finals_viii"),
        ("x}) DETACH DELETE n //", "x_detach_delete_n"),
        ("Women's Champions’ League", "womens_champions_league"),
        ("Formula №1", "formula_no1"),
        ("𝔸lpha League", "alpha_league"),
        ("Ｊ１リーグ　Ｃｕｐ", "j1_cup"),
        ("Bayern–München Derby", "bayern_munchen_derby"),
        ("A‐B‑C‒D—E―F−G﹣H", "a_b_c_d_e_f_g_h"),
        ("Milan / Inter · Derby", "milan_inter_derby"),
        ("Straße GROẞ", "strasse_gross"),
        ("İstanbul Işık ılık", "istanbul_isik_ilik"),
        ("3×3 Basketball", "3x3_basketball"),
        ("½ Marathon, 1ª Liga", "1_2_marathon_1a_liga"),
        ("Azərbaycan Ǿ", "azerbaycan_o"),
        ("L’Équipe soft\u00adly zero\u200bwidth", "lequipe_softly_zerowidth"),
        ("a\u00a0b\u2003c\u2028d", "a_b_c_d"),
        ("Лига", ""),
        ("🏆", ""),
        ("", ""),
    ],
)
def test_slugs(text: str, expected: str) -> None:
    """Lower-case ASCII words; what ASCII cannot say is left out."""
    assert slug(text) == expected


@given(st.text())
def test_a_slug_is_a_tag_or_nothing(text: str) -> None:
    """Any name whatever: an id that every sink takes, of bounded length, and its own slug."""
    found = slug(text)
    assert found == "" or re.fullmatch(TAG, found)
    assert len(found) <= SLUG_LENGTH
    assert slug(found) == found


# --- candidates -------------------------------------------------------------------------------


def test_candidates_go_from_the_plain_to_the_certain() -> None:
    """The name; the name with its place; the name with a hash of the seed's own id."""
    suffix = digest(b"football_017")[:8]
    assert list(candidates(request("football_017", "Premier League", "Ghana"))) == [
        "premier_league",
        "premier_league_ghana",
        f"premier_league_{suffix}",
    ]
    assert list(candidates(request("football_017"))) == [
        "premier_league",
        f"premier_league_{suffix}",
    ]
    assert list(candidates(request("football_017", "Лига", "Россия"))) == [f"seed_{suffix}"]
    assert list(candidates(own("football_017", "epl"))) == ["epl"]


@given(st.text(min_size=1), st.text(), st.none() | st.text())
def test_every_candidate_is_a_tag(seed_id: str, name: str, place: str | None) -> None:
    """Whatever the seed says, each can stand as an id in every sink."""
    found = list(candidates(request(seed_id, name, place)))
    assert found
    assert all(re.fullmatch(TAG, tag) for tag in found)


# --- assigning --------------------------------------------------------------------------------


def test_namesakes_get_tags_of_their_own() -> None:
    """England's, Ghana's, and a second one of Ghana's are three leagues."""
    requests = [
        request("a", place="England"),
        request("b", place="Ghana"),
        request("c", place="Ghana"),
        request("d", place="Ghana"),
    ]
    tags, refused = assign(requests, {}, {})
    assert tags == {
        "a": "premier_league",
        "b": "premier_league_ghana",
        "c": f"premier_league_{digest(b'c')[:8]}",
        "d": f"premier_league_{digest(b'd')[:8]}",
    }
    assert refused == []


def test_a_tag_once_given_stays() -> None:
    """Another name or place changes nothing; nor does the same tag, requested again."""
    known = {"a": "premier_league"}
    for again in (
        request("a", "Another Name"),
        request("a", place="Elsewhere"),
        own("a", "premier_league"),
    ):
        assert assign([again], known, {}) == ({"a": "premier_league"}, [])


def test_a_known_seed_that_gives_another_tag_is_renamed() -> None:
    """To one that is free, or was its own before; no two change places."""
    known = {"a": "premier_league", "b": "ligue_1"}
    assert assign([own("a", "epl")], known, {}) == ({"a": "epl"}, [])
    assert assign([own("a", "epl")], known, {"epl": "a"}) == ({"a": "epl"}, [])
    swap = [own("a", "ligue_1"), own("b", "premier_league")]
    tags, refused = assign(swap, known, {"ligue_1": "b", "premier_league": "a"})
    assert (tags, [one.seed_id for one in refused]) == ({}, ["a", "b"])


def test_anothers_tag_is_refused_and_the_holder_named() -> None:
    """The tag of another seed, in the registry or earlier in the same batch."""
    refusal = Refusal("b", "the key 'epl' belongs to the seed 'a'")
    assert assign([own("b", "epl")], {}, {"epl": "a"}) == ({}, [refusal])
    assert assign([own("a", "epl"), own("b", "epl")], {}, {}) == ({"a": "epl"}, [refusal])


def test_a_seed_whose_every_tag_is_taken_is_told_which() -> None:
    """All its candidates are taken; the sentence names one, not None."""
    mine = request("b", place="Ghana")
    holders = dict.fromkeys(candidates(mine), "a")
    tags, refused = assign([mine], {}, holders)
    assert tags == {}
    assert [refusal.seed_id for refusal in refused] == ["b"]
    assert "None" not in refused[0].reason
    assert "premier_league" in refused[0].reason


_names = st.sampled_from(["Premier League", "premier-league", "Serie A", "Лига", "", "Cup Ghana"])
_places = st.none() | st.sampled_from(["", "Ghana", "England"])
_given = st.none() | st.sampled_from(["premier_league", "serie_a", "premier_league_ghana", "epl"])
_wishes = st.lists(
    st.builds(
        request_key, st.sampled_from([f"seed_{n}" for n in range(9)]), _given, _names, _places
    ),
    max_size=9,
    unique_by=lambda one: one.seed_id,
)


class Registry:
    """A store of tags as the loader uses it: queried by batches, kept for ever."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.held: dict[str, str] = {}

    def load(self, batch: Sequence[KeyRequest]) -> tuple[dict[str, str], list[Refusal]]:
        """One batch of a seeding run."""
        known = {one.seed_id: self.tags[one.seed_id] for one in batch if one.seed_id in self.tags}
        wanted = {tag for one in batch for tag in candidates(one)}
        holders = {tag: seed_id for tag, seed_id in self.held.items() if tag in wanted}
        given_now, refused = assign(batch, known, holders)
        self.tags.update(given_now)
        for seed_id, tag in given_now.items():
            assert self.held.setdefault(tag, seed_id) == seed_id  # no tag changes hands
        return given_now, refused


@given(st.lists(_wishes, max_size=3))
def test_no_two_seeds_share_a_tag(batches: list[list[KeyRequest]]) -> None:
    """Over any number of batches and runs, in any order."""
    registry = Registry()
    for batch in batches:
        registry.load(batch)
        assert len(set(registry.tags.values())) == len(registry.tags)


@given(st.lists(_wishes, max_size=3))
def test_everybody_is_either_given_a_tag_or_refused(batches: list[list[KeyRequest]]) -> None:
    """No seed is lost between the two, and one that leaves its tag open is never refused."""
    registry = Registry()
    for batch in batches:
        tags, refused = registry.load(batch)
        assert sorted([*tags, *(one.seed_id for one in refused)]) == sorted(
            one.seed_id for one in batch
        )
        open_ones = {one.seed_id for one in batch if one.given is None}
        assert not open_ones & {one.seed_id for one in refused}


@given(st.lists(_wishes, min_size=1, max_size=3))
def test_a_known_tag_changes_only_where_another_is_given(batches: list[list[KeyRequest]]) -> None:
    """Another name or place changes nothing."""
    registry = Registry()
    for batch in batches:
        before = dict(registry.tags)
        tags, _ = registry.load(batch)
        given_tags = {one.seed_id: one.given for one in batch}
        for seed_id in tags.keys() & before.keys():
            assert tags[seed_id] in (before[seed_id], given_tags[seed_id])


@given(_wishes, _wishes, st.randoms(use_true_random=False))
def test_additions_around_change_no_tag(
    first: list[KeyRequest], additions: list[KeyRequest], random: object
) -> None:
    """New lines before, between and after the old ones leave the old ones' tags alone."""
    registry = Registry()
    registry.load(first)
    tags = dict(registry.tags)
    kept = {one.seed_id: one for one in first}
    mixed = [*first, *(one for one in additions if one.seed_id not in kept)]
    random.shuffle(mixed)  # type: ignore[attr-defined]
    registry.load(mixed)
    assert tags.items() <= registry.tags.items()


@given(_wishes)
def test_loading_again_gives_the_same(requests: list[KeyRequest]) -> None:
    """A second run of the same files changes nothing and refuses the same."""
    registry = Registry()
    first = registry.load(requests)
    tags = dict(registry.tags)
    again = registry.load(requests)
    assert registry.tags == tags
    assert again[0] == first[0]
    assert {one.seed_id for one in again[1]} == {one.seed_id for one in first[1]}


@given(_wishes, st.integers(0, 9))
def test_where_batches_end_does_not_matter(requests: list[KeyRequest], cut: int) -> None:
    """The same lines in one batch or in two get the same tags."""
    whole, parts = Registry(), Registry()
    whole.load(requests)
    parts.load(requests[:cut])
    parts.load(requests[cut:])
    assert whole.tags == parts.tags
