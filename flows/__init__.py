"""The bundled flows, one JSON file each; built by ``sluice flows build``, never by hand."""
