"""The contract's own assertions say what they compared."""

import pytest

pytest.register_assert_rewrite("support.site_contract")
