from streamrec.client import Client as Client
from streamrec.notebook.asking import explain as explain
from streamrec.notebook.asking import open_model as open_model
from streamrec.notebook.asking import recommend as recommend
from streamrec.notebook.learning import backtest as backtest
from streamrec.notebook.learning import distil as distil
from streamrec.notebook.learning import train_teacher as train_teacher
from streamrec.notebook.plotting import plot as plot
from streamrec.notebook.worlds import load_events as load_events
from streamrec.notebook.worlds import sample_events as sample_events
from streamrec.notebook.worlds import save_events as save_events
from streamrec.notebook.worlds import settings as settings

__version__: str
