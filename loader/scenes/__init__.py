"""Drawing of small synthetic scenes whose every pixel knows what it shows.

``concepts`` names what can be seen, ``palette`` the colours and the light, ``noise`` the cached noise fields,
``canvas`` the camera, the picture and its label layer, ``skins`` the materials and patterns; ``nature``,
``structures``, ``movables`` and ``furniture`` draw things out of parts, ``outdoors`` and ``indoors`` compose them
into scenes, ``finish`` develops the picture, and ``render`` ties these together.
"""
