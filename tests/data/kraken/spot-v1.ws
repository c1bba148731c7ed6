wss://ws.kraken.com <-> 1767225600.25
wss://ws.kraken.com <- 1767225600.400000: {"event":"subscribe","pair":["XBT/USD","ETH/XBT"],"subscription":{"name":"trade"}}
1767225600.500000: {"connectionID":18239578009413566319,"event":"systemStatus","status":"online","version":"1.9.3"}
1767225600.600000: {"channelID":993,"channelName":"trade","event":"subscriptionStatus","pair":"XBT/USD","status":"subscribed","subscription":{"name":"trade"}}
1767225600.700000: {"channelID":465,"channelName":"trade","event":"subscriptionStatus","pair":"ETH/XBT","status":"subscribed","subscription":{"name":"trade"}}
1767225600.799999: {"channelID":996,"channelName":"ticker","event":"subscriptionStatus","pair":"XBT/USD","status":"subscribed","subscription":{"name":"ticker"}}
1767225600.899999: {"channelID":997,"channelName":"ohlc-5","event":"subscriptionStatus","pair":"XBT/USD","status":"subscribed","subscription":{"name":"ohlc-5"}}
1767225600.999999: {"errorMessage":"Currency pair not supported NO/SUCH","event":"subscriptionStatus","pair":"NO/SUCH","status":"error","subscription":{"name":"trade"}}
1767225601.099999: [996,{"a":["88000.20000",1,"1.25000000"],"b":["88000.10000",0,"0.50000000"],"c":["88000.10000","0.5"],"v":["1","2"],"p":["88000.10000","88000.10000"],"t":[6,9],"l":["88000.10000","88000.10000"],"h":["88000.20000","88000.20000"],"o":["88000.10000","88000.10000"]},"ticker","XBT/USD"]
1767225601.199999: [993,[["88000.20000","0.00027625","1767225600.557535","b","l",""]],"trade","XBT/USD"]
1767225601.299999: {"event":"heartbeat"}
1767225601.399999: [993,[["88000.10000","0.10000000","1767225601.700001","s","m",""],["88000.00000","0.00012460","1767225601.700002","s","m",""]],"trade","XBT/USD"]
1767225601.499999: [997,["1767225601.7","1767225900.0","1","2","1","2","1.5","3",2],"ohlc-5","XBT/USD"]
1767225601.599999: [998,["88000.1","88000.2","1767225601.8","0.5","1.25"],"spread","XBT/USD"]
1767225601.699999: [999,{"a":[["88000.2","1.0","1767225601.9"]]},{"b":[["88000.1","0.0","1767225601.9"]],"c":"974942666"},"book-10","XBT/USD"]
1767225601.799999: {"event":"pong","reqid":42}
1767225601.899998: [465,[["0.033920","3.00000000","1767225602.1","b","m",""]],"trade","ETH/XBT"]
