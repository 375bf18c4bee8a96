"""Commands, and what tests and benchmarks share: servers, pages, graphs, files. All may import the
pack as `detex_pack`.
"""

from .pack_host import register_pack

register_pack()
