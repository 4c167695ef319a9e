from tests.system.conftest import quick_in

__all__ = ["quick_in"]
