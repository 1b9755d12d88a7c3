"""Sites: the interface of the four pillars, and the drivers that ship with lwfm."""
