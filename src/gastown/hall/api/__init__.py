"""The hall's web application: its routes, the bodies they read and the models they answer with."""
