"""One section of a page is made anew; the others stay where they were."""

import pytest

from scripts.sections import with_section

PAGE = "# Page\n\nWritten by a script.\n\n## one: old title\n\n| a |\n\n## two\n\ntwo's text\n"


def test_a_section_is_replaced_by_its_name_up_to_the_colon_and_keeps_its_place():
    page = with_section(PAGE, "## one: new title\n\n| b |\n\n![one](one.png)\n")
    assert page == (
        "# Page\n\nWritten by a script.\n\n## one: new title\n\n| b |\n\n![one](one.png)\n\n## two\n\ntwo's text\n"
    )


def test_a_new_section_is_the_last_one_and_writing_it_again_changes_nothing():
    page = with_section(PAGE, "## on\n\nthree")
    assert page == PAGE + "\n## on\n\nthree\n"
    assert with_section(page, "## on\n\nthree") == page


def test_text_without_a_heading_of_its_own_is_refused():
    with pytest.raises(ValueError, match="begins with '## NAME'"):
        with_section(PAGE, "# Title\n\n## three")
