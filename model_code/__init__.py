from schemas.console import quiet

quiet.install()  # before a module of this package imports a library
