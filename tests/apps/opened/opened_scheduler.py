from apscheduler.schedulers.background import BackgroundScheduler

RUNS = []
SCHEDULER = BackgroundScheduler()
SCHEDULER.add_job(RUNS.append, "interval", seconds=0.05, args=(1,))
SCHEDULER.start()


def fetch(query):
    assert SCHEDULER.running
    return query
